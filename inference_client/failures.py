"""Reads failures off the wire: an RPC's status with google.rpc details, or one item's `Problem`.

Pure: it takes the parts of a status and returns an error to raise. It must never raise itself, since
it runs where something has failed already; details that cannot be read count as absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from multimodal.v1 import media_pb2

from inference_client.errors import (
    BY_REASON,
    CallCancelled,
    CallerError,
    CapacityError,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidRequest,
    ServerUnavailable,
    SidecarError,
)

# Whose ErrorInfo is ours to read; anything else was written by a proxy on the way.
DOMAIN = "multimodal.v1"

# Where gRPC carries a google.rpc.Status beside the plain one.
DETAILS_KEY = "grpc-status-details-bin"

# How long a server asks to be left alone with a call, in gRPC's own words (gRFC A6).
PUSHBACK_KEY = "grpc-retry-pushback-ms"

# How gRPC itself words RESOURCE_EXHAUSTED for a message over the receiver's limit.
_TOO_LONG = "message larger than max"

# The nearest branch for a reason that this version does not know, and for a status without details.
# What is absent is InternalError's.
_NEAREST: Mapping[grpc.StatusCode, type[SidecarError]] = {
    grpc.StatusCode.CANCELLED: CallCancelled,
    grpc.StatusCode.INVALID_ARGUMENT: CallerError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: CallerError,
    grpc.StatusCode.ALREADY_EXISTS: CallerError,
    grpc.StatusCode.PERMISSION_DENIED: CallerError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: CapacityError,
    grpc.StatusCode.FAILED_PRECONDITION: CallerError,
    grpc.StatusCode.ABORTED: CapacityError,
    grpc.StatusCode.OUT_OF_RANGE: CallerError,
    grpc.StatusCode.UNIMPLEMENTED: CallerError,
    grpc.StatusCode.UNAVAILABLE: CapacityError,
    grpc.StatusCode.UNAUTHENTICATED: CallerError,
}

# The metadata's words for whether a later try can succeed; without them the error's own class says it.
_TRUTH: Mapping[str, bool] = {"true": True, "false": False}

_BY_NUMBER: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc(
    code: grpc.StatusCode,
    details: str | None,
    trailing: Iterable[tuple[str, str | bytes]] | None,
    *,
    address: str,
) -> SidecarError:
    """The error that a failed call stands for; `address` is named where nobody answered."""
    message = details or f"the call ended with {code.name} and no message"
    status = _rich_status(trailing or ())
    info = error_details_pb2.ErrorInfo()
    for packed in status.details:
        if packed.Unpack(info) and info.domain == DOMAIN:
            return _told(code, message, info, status)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServerUnavailable(
            f"no sidecar answered at {address}: {message}. Check that it runs and that the address is right.",
            status=code.name,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"no answer from {address} within the timeout: {message}. Give the call a longer `timeout`.",
            status=code.name,
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LONG in message:
        return InvalidRequest(
            f"{address} takes no message of this size: {message}. Give the client an `upload_threshold` "
            "below the sidecar's `server.message_bytes`, so that media travels in pieces.",
            status=code.name,
        )
    kind = _NEAREST.get(code, InternalError)
    return kind(f"{code.name}: {message}", reason=_reason_of_code(kind, code), status=code.name)


def from_problem(problem: media_pb2.Problem) -> SidecarError:
    """The error that one item's problem stands for."""
    code = _BY_NUMBER.get(problem.code, grpc.StatusCode.UNKNOWN)
    kind = BY_REASON.get(problem.reason) or _NEAREST.get(code, InternalError)
    return kind(
        problem.message or problem.reason or code.name,
        reason=problem.reason or None,
        retryable=problem.retryable,
        retry_after_s=_seconds(problem.metadata.get("retry_after_s", "")),
        item=_item(problem.metadata),
        facts=problem.metadata,
        status=code.name,
    )


def pushback_s(trailing: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """Seconds until the next attempt, by the call's push-back; infinity for never, None: it has none.

    A negative one, and one that cannot be read, both mean never (gRFC A6).
    """
    for key, value in trailing or ():
        if key == PUSHBACK_KEY:
            told = value if isinstance(value, str) else ""
            return int(told) / 1e3 if told.isascii() and told.isdigit() else math.inf
    return None


def _told(
    code: grpc.StatusCode, message: str, info: error_details_pb2.ErrorInfo, status: status_pb2.Status
) -> SidecarError:
    """The error as the server itself told it."""
    retry_after_s: float | None = None
    violations: list[FieldViolation] = []
    for packed in status.details:
        retry = error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        elif packed.Unpack(bad):
            violations += [FieldViolation(at.field, at.description) for at in bad.field_violations]
    facts = dict(info.metadata)
    kind = BY_REASON.get(info.reason) or _NEAREST.get(code, InternalError)
    return kind(
        status.message or message,
        reason=info.reason,
        retryable=_TRUTH.get(facts.pop("retryable", "")),
        retry_after_s=retry_after_s,
        item=_item(facts),
        facts=facts,
        violations=violations,
        status=code.name,
    )


def _item(facts: Mapping[str, str]) -> int | None:
    """The index of the item to blame, if the facts tell one."""
    told = facts.get("item", "")
    return int(told) if told.isascii() and told.isdigit() else None


def _seconds(told: str) -> float | None:
    """A number of seconds from an item's facts, if that is what it is."""
    try:
        seconds = float(told)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _rich_status(trailing: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    for key, value in trailing:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _reason_of_code(kind: type[SidecarError], code: grpc.StatusCode) -> str:
    """A leaf has its own name; a branch that stands for a plain status takes that status's."""
    return kind.reason if kind in BY_REASON.values() else code.name
