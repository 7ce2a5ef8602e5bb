"""The one table from what a model server says to what it means here.

Pure. A unary call fails with a status, and only where a status says two things do the words decide.
A stream's failure is told inside the stream, in words alone: Triton would turn them into a status
only under the request header `triton_grpc_error`, and that header must never be sent. Triton 2.51
dies of a segmentation fault when a decoupled model goes on after an error under it, seen on every try.

The words are Triton's own, seen from 2.51 unless marked as read in its source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import grpc

from sidecar.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnimplemented,
)

Kind = type[UpstreamError]
Leaf = TypeVar("Leaf", bound=UpstreamError)
Words = tuple[tuple[str, Kind], ...]

# UNKNOWN, INTERNAL, CANCELLED (by the server, as when it drains) and all that is not here: UpstreamFailed.
BY_STATUS: Mapping[grpc.StatusCode, Kind] = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: UpstreamUnavailable,
        grpc.StatusCode.INVALID_ARGUMENT: UpstreamRejected,
        grpc.StatusCode.NOT_FOUND: UpstreamModelMissing,
        grpc.StatusCode.UNIMPLEMENTED: UpstreamUnimplemented,
        grpc.StatusCode.DEADLINE_EXCEEDED: UpstreamTimeout,
        # Never from Triton; other KServe servers refuse load with it.
        grpc.StatusCode.RESOURCE_EXHAUSTED: UpstreamBusy,
    }
)

# Triton says UNAVAILABLE of its queue and of models; gRPC says it of connections.
BY_STATUS_AND_WORDS: Mapping[grpc.StatusCode, Words] = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: (
            ("Exceeds maximum queue size", UpstreamBusy),
            ("Request timeout expired", UpstreamBusy),
            ("is not at ready state", UpstreamModelMissing),  # read
            ("is not ready", UpstreamModelMissing),  # read
        ),
        # gRPC's own limits say the same status of a message.
        grpc.StatusCode.RESOURCE_EXHAUSTED: (("message larger than max", UpstreamRejected),),
    }
)

BY_STREAMED_WORDS: Words = (
    ("Exceeds maximum queue size", UpstreamBusy),
    ("Request timeout expired", UpstreamBusy),
    ("Server is stopping", UpstreamUnavailable),
    ("Request for unknown model", UpstreamModelMissing),
    ("is not at ready state", UpstreamModelMissing),  # read
    ("unexpected inference input", UpstreamRejected),
    ("unexpected inference output", UpstreamRejected),
    ("unexpected shape for input", UpstreamRejected),
    ("inputs but got", UpstreamRejected),
    ("missing required input", UpstreamRejected),
    ("input byte size mismatch", UpstreamRejected),
    ("but model '", UpstreamRejected),  # "data-type is 'FP32', but model 'm' expects 'FP16'"
    ("parameter keys starting with", UpstreamRejected),
    ("invalid value type for", UpstreamRejected),
)

# What happened, and what to do.
_STORY: Mapping[Kind, tuple[str, str]] = MappingProxyType(
    {
        UpstreamUnavailable: (
            "the model server cannot be reached, or went away, for",
            "try again; if it stays so, see whether it runs and listens at the address in the settings",
        ),
        UpstreamBusy: (
            "the model server has no room in its queue for",
            "try again later, or give the model more instances or a longer queue",
        ),
        UpstreamRejected: (
            "the model server refused the request to",
            "compare the inputs and parameters with what the model declares",
        ),
        UpstreamModelMissing: (
            "the model server does not have, or has not loaded,",
            "load it there, or correct its name and version in the settings",
        ),
        UpstreamUnimplemented: (
            "the model server does not offer this kind of call for",
            "a decoupled model is asked through InferStream, and a server without the call is of another protocol",
        ),
        UpstreamTimeout: (
            "no answer came in time from",
            "allow more time, or give the model more capacity",
        ),
        UpstreamFailed: (
            "the model server failed on the request to",
            "see the model server's log",
        ),
    }
)

# Long enough for Triton's own sentences, short enough for a status, whose headers end at 8 KiB; a Python
# model can put a whole traceback there.
MAX_QUOTE = 400


def of_status(code: grpc.StatusCode, words: str, model: str) -> UpstreamError:
    """What a call's status means, with the server's words quoted."""
    kind = _by_words(BY_STATUS_AND_WORDS.get(code, ()), words) or BY_STATUS.get(code, UpstreamFailed)
    return of_kind(kind, words, model, status=code.name)


def of_stream(words: str, model: str) -> UpstreamError:
    """What an error message inside a stream means, with the server's words quoted."""
    return of_kind(_by_words(BY_STREAMED_WORDS, words) or UpstreamFailed, words, model)


def of_kind(kind: type[Leaf], words: str, model: str, **facts: object) -> Leaf:
    """An error of that kind about the model: what happened, the quoted words, what to do."""
    what, advice = _STORY[kind]
    return kind(f"{what} model {model!r}: {quote(words)}; {advice}", model=model, **facts)


# gRPC's words for a connection name the address, which is the operator's to know, not the caller's.
_ADDRESS = re.compile(r"\b(?:ipv4|ipv6|unix|dns):[^\s;,]+")


def quote(words: str) -> str:
    """Foreign words on one line, printable, in quotation marks, at most MAX_QUOTE characters of them."""
    words = _ADDRESS.sub("(its address)", words)
    line = re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", words).strip()
    line = re.sub(r" {2,}", " ", line)
    return f'"{line[: MAX_QUOTE - 3]}..."' if len(line) > MAX_QUOTE else f'"{line}"'


def _by_words(table: Words, words: str) -> Kind | None:
    return next((kind for part, kind in table if part in words), None)
