"""What can go wrong, by the same names as in the server. Each branch says whose fault it is.

    SidecarError
    ├── CallerError              the request must change before it can succeed
    │   ├── Unauthenticated        who calls is not told, or not so that it is believed
    │   ├── PermissionDenied       who calls is known, and may not do that
    │   ├── InvalidRequest         a field of the request is missing, malformed or out of range
    │   │   └── WrongItemCount       the model takes another number of media items
    │   ├── UnknownModel           no model of that name is served there
    │   ├── WrongModality          the model takes another kind of media, or none
    │   ├── WrongStream            the model's kind of answer needs another verb
    │   ├── InvalidInput           a plain input contradicts what the model declares
    │   ├── MediaTooLarge          an item passes a limit
    │   ├── Unaffordable           it can never fit: in the call's timeout, or in the server's memory
    │   ├── MediaError             the bytes of an item are to blame
    │   │   ├── UnsupportedMedia     not a format, or not a variant of one, that is decoded there
    │   │   └── CorruptMedia         a known format whose content is empty, cut short or damaged
    │   ├── MislabelledMedia       the content contradicts the declared content type
    │   ├── FetchRefused           media's address is not one that the sidecar fetches from
    │   ├── DeadlineExceeded       the call's timeout passed before the work was done
    │   └── CallCancelled          the call was given up
    ├── CapacityError            the same request can succeed later
    │   ├── Overloaded             the queue in front of the workers is full
    │   └── ShuttingDown           the server is draining
    ├── UpstreamError            the model server behind the sidecar is to blame
    │   ├── UpstreamUnavailable    it cannot be reached, or went away mid-request
    │   ├── UpstreamBusy           it refused because its own queue is full
    │   ├── UpstreamRejected       it called the request invalid
    │   ├── UpstreamModelMissing   it does not have the model, or the model is not ready
    │   ├── UpstreamUnimplemented  it does not offer that kind of call for the model
    │   ├── UpstreamTimeout        its answer did not come within the call's timeout
    │   └── UpstreamFailed         it failed while working on the request
    ├── FetchError               the server at media's address is to blame
    │   ├── FetchFailed            it gave no media, and will not
    │   └── FetchUnavailable       it could not be reached, broke off, or took too long
    ├── SetupError               what the operator configured cannot work
    │   └── ModelMismatch          recipe and model server contradict each other
    ├── TransportError           the sidecar itself did not answer; only the client raises these
    │   ├── ServerUnavailable      it cannot be reached, or went away mid-call
    │   └── BadReply               its answer contradicts the contract
    └── InternalError            a fault of the sidecar

Catch a branch rather than a leaf where only the fault matters: a newer server's unknown leaf is
raised as its nearest branch. Nothing here knows gRPC; `failures.py` does the reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is to blame, by its path in the contract, and why."""

    field: str
    description: str


class SidecarError(Exception):
    """Root of the tree.

    `message` says what was wrong, with which item, and what to do; it is for people and may change.
    For programs: `reason` is the error's name on the wire, `retryable` whether sending the same again
    later can succeed, `retry_after_s` how many seconds to wait first where the server said so, `item` the
    index of the media item to blame (None: no single one), `facts` what was found and what is allowed,
    `violations` the fields to blame, `status` the name of the gRPC status that carried it ("" for errors
    that never crossed the wire).
    """

    reason: str = "INTERNAL_ERROR"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        item: int | None = None,
        facts: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        status: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        if retryable is not None:
            self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.item = item
        self.facts = dict(facts or {})
        self.violations = tuple(violations)
        self.status = status


class CallerError(SidecarError):
    """The request must change before it can succeed."""


@final
class Unauthenticated(CallerError):
    """Who calls is not told, or not so that it is believed: give the client a valid `token` or certificate."""

    reason = "UNAUTHENTICATED"


@final
class PermissionDenied(CallerError):
    """Who calls is known there, and may not do that."""

    reason = "PERMISSION_DENIED"


class InvalidRequest(CallerError):
    """A field of the request is missing, malformed or out of range; `violations` name it."""

    reason = "INVALID_REQUEST"


@final
class WrongItemCount(InvalidRequest):
    """The model takes another number of media items."""

    reason = "WRONG_ITEM_COUNT"


@final
class UnknownModel(CallerError):
    """No model of that name is served there; `models()` lists those that are."""

    reason = "UNKNOWN_MODEL"


@final
class WrongModality(CallerError):
    """The model takes another kind of media, or none."""

    reason = "WRONG_MODALITY"


@final
class WrongStream(CallerError):
    """The model's kind of answer needs another verb: a decoupled model is asked by `infer_stream`."""

    reason = "WRONG_STREAM"


@final
class InvalidInput(CallerError):
    """A plain input contradicts what the model declares; fact `input` names it."""

    reason = "INVALID_INPUT"


@final
class MediaTooLarge(CallerError):
    """An item passes a limit. Facts: `limit` (the server's settings key), `allowed`, `found`."""

    reason = "MEDIA_TOO_LARGE"


@final
class Unaffordable(CallerError):
    """What was asked can never fit: its cost alone passes the call's timeout, or the memory there is.

    The same request is refused for good; another timeout, smaller media or fewer items may fit. What does
    not fit now is Overloaded.
    """

    reason = "UNAFFORDABLE"


class MediaError(CallerError):
    """The bytes of an item are to blame."""


@final
class UnsupportedMedia(MediaError):
    """Not a format, or not a variant of one, that is decoded there."""

    reason = "UNSUPPORTED_MEDIA"


@final
class CorruptMedia(MediaError):
    """A known format whose content is empty, cut short or damaged."""

    reason = "CORRUPT_MEDIA"


@final
class MislabelledMedia(CallerError):
    """The content contradicts the content type that was declared."""

    reason = "MISLABELLED_MEDIA"


@final
class FetchRefused(CallerError):
    """Media's address is not one that the sidecar fetches from: its host, its scheme, where it leads."""

    reason = "FETCH_REFUSED"


@final
class DeadlineExceeded(CallerError):
    """The call's timeout passed before the work was done; fact `stage` says where, if the server knew."""

    reason = "DEADLINE_EXCEEDED"


@final
class CallCancelled(CallerError):
    """The call was given up: its stream was closed, its client was closed, or the server cut it."""

    reason = "CALL_CANCELLED"


class CapacityError(SidecarError):
    """The same request can succeed later, `retry_after_s` from now where the server said so."""

    retryable = True


@final
class Overloaded(CapacityError):
    """The queue in front of the workers is full."""

    reason = "OVERLOADED"


@final
class ShuttingDown(CapacityError):
    """The server is draining; another replica, or this one after its restart, will take the request."""

    reason = "SHUTTING_DOWN"


class UpstreamError(SidecarError):
    """The model server behind the sidecar is to blame; fact `model` is its name there."""


@final
class UpstreamUnavailable(UpstreamError):
    """The model server cannot be reached, or went away mid-request."""

    reason = "UPSTREAM_UNAVAILABLE"
    retryable = True


@final
class UpstreamBusy(UpstreamError):
    """The model server refused because its own queue is full or the request timed out in it."""

    reason = "UPSTREAM_BUSY"
    retryable = True


@final
class UpstreamRejected(UpstreamError):
    """The model server called the request invalid."""

    reason = "UPSTREAM_REJECTED"


@final
class UpstreamModelMissing(UpstreamError):
    """The model server does not have the model, or the model is not ready."""

    reason = "UPSTREAM_MODEL_MISSING"


@final
class UpstreamUnimplemented(UpstreamError):
    """The model server does not offer that kind of call for the model."""

    reason = "UPSTREAM_UNIMPLEMENTED"


@final
class UpstreamTimeout(UpstreamError):
    """The model server's answer did not come within the call's timeout."""

    reason = "UPSTREAM_TIMEOUT"


@final
class UpstreamFailed(UpstreamError):
    """The model server failed while working on the request."""

    reason = "UPSTREAM_FAILED"


class FetchError(SidecarError):
    """The server at media's address is to blame; fact `host` names it."""


@final
class FetchFailed(FetchError):
    """The server at media's address gave no media, and will not when asked again."""

    reason = "FETCH_FAILED"


@final
class FetchUnavailable(FetchError):
    """The server at media's address could not be reached, broke off, or took too long."""

    reason = "FETCH_UNAVAILABLE"
    retryable = True


class SetupError(SidecarError):
    """What the operator configured cannot work; no request to that model can."""


@final
class ModelMismatch(SetupError):
    """Recipe and model server contradict each other; the message names both sides."""

    reason = "MODEL_MISMATCH"


class TransportError(SidecarError):
    """The sidecar itself did not answer. Only the client raises this branch."""


@final
class ServerUnavailable(TransportError):
    """The sidecar cannot be reached at its address, or the connection broke mid-call."""

    reason = "SERVER_UNAVAILABLE"
    retryable = True


@final
class BadReply(TransportError):
    """The sidecar's answer contradicts the contract; client and server may be of different versions."""

    reason = "BAD_REPLY"


@final
class InternalError(SidecarError):
    """A fault of the sidecar; its log has the details."""

    reason = "INTERNAL_ERROR"


# What the name on the wire stands for. Only leaves: a branch is never sent.
BY_REASON: Mapping[str, type[SidecarError]] = {
    kind.reason: kind
    for kind in (
        Unauthenticated,
        PermissionDenied,
        InvalidRequest,
        WrongItemCount,
        UnknownModel,
        WrongModality,
        WrongStream,
        InvalidInput,
        MediaTooLarge,
        Unaffordable,
        UnsupportedMedia,
        CorruptMedia,
        MislabelledMedia,
        FetchRefused,
        FetchFailed,
        FetchUnavailable,
        DeadlineExceeded,
        CallCancelled,
        Overloaded,
        ShuttingDown,
        UpstreamUnavailable,
        UpstreamBusy,
        UpstreamRejected,
        UpstreamModelMissing,
        UpstreamUnimplemented,
        UpstreamTimeout,
        UpstreamFailed,
        ModelMismatch,
        InternalError,
    )
}
