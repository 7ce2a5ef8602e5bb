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
        # The region of shared memory that a request spoke of, not a model.
        grpc.StatusCode.NOT_FOUND: (("Unable to find shared memory region", UpstreamFailed),),
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

# A request that names a region this server process was never told of is refused before anything is run.
_UNKNOWN_REGION = "Unable to find shared memory region"
# An output that is larger than the place it was to be written to: INTERNAL, after the model has run.
_TOO_SMALL = re.compile(r"^shared memory size specified with the request for output .* should be at least")
# Ends of a call that say nothing of what became of it at the server; gRPC itself says INTERNAL and UNKNOWN
# of streams that were reset under it (words read in its source).
_DOUBTFUL = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
)
_DOUBTFUL_WORDS = ("RST_STREAM", "Stream removed", "GOAWAY")

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


def is_unknown_region(words: str) -> bool:
    """Whether a request was refused because the server does not know the region it named: nothing was run."""
    return _UNKNOWN_REGION in words


def is_too_small(words: str) -> bool:
    """Whether a request failed because an output did not fit the place in shared memory that it was given."""
    return _TOO_SMALL.search(words) is not None


def is_in_doubt(code: grpc.StatusCode, words: str) -> bool:
    """Whether a call that ended so may still be under way at the server.

    What Triton says of its queue is its answer, whatever the status: that request is over.
    """
    if _by_words(BY_STATUS_AND_WORDS.get(code, ()), words) is not None:
        return False
    return code in _DOUBTFUL or any(part in words for part in _DOUBTFUL_WORDS)


def of_kind(kind: type[Leaf], words: str, model: str, **facts: object) -> Leaf:
    """An error of that kind about the model: what happened, the quoted words, what to do."""
    what, advice = _STORY[kind]
    return kind(f"{what} model {model!r}: {quote(words)}; {advice}", model=model, **facts)


# gRPC's words for a connection name the address, which is the operator's to know, not the caller's.
_ADDRESS = re.compile(r"\b(?:ipv4|ipv6|unix|dns):[^\s;,]+")


def without_addresses(words: str) -> str:
    """Words of gRPC's without the model server's address."""
    return _ADDRESS.sub("(its address)", words)


def quote(words: str) -> str:
    """Foreign words on one line, printable, in quotation marks, at most MAX_QUOTE characters of them."""
    words = without_addresses(words)
    line = re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", words).strip()
    line = re.sub(r" {2,}", " ", line)
    return f'"{line[: MAX_QUOTE - 3]}..."' if len(line) > MAX_QUOTE else f'"{line}"'


def _by_words(table: Words, words: str) -> Kind | None:
    return next((kind for part, kind in table if part in words), None)
