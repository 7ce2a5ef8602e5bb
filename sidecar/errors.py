"""The error tree. Each leaf is one sentence; each branch says whose fault it is.

    SidecarError
    ├── CallerError              the request must change before it can succeed
    │   ├── Unauthenticated        who calls is not told, or not so that it can be believed
    │   ├── PermissionDenied       who calls is known, and may not do that
    │   ├── InvalidRequest         a field of the request is missing, malformed or out of range
    │   │   └── WrongItemCount       the model takes another number of media items
    │   ├── UnknownModel           no model of that name is served here
    │   ├── WrongModality          the model takes another kind of media, or none
    │   ├── WrongStream            the model's kind of answer needs another RPC
    │   ├── InvalidInput           a plain input contradicts what the model declares
    │   ├── MediaTooLarge          an item passes a limit
    │   ├── Unaffordable           it can never be done in its time, or with the memory there is
    │   ├── MediaError             the bytes of an item are to blame
    │   │   ├── UnsupportedMedia     not a format, or not a variant of one, that is decoded here
    │   │   └── CorruptMedia         a known format whose content is empty, cut short or damaged
    │   ├── MislabelledMedia       the content contradicts the declared content type
    │   ├── FetchRefused           media's address is not one that is fetched from here
    │   ├── DeadlineExceeded       the caller's deadline passed before the work was done
    │   └── CallCancelled          the caller went away
    ├── CapacityError            the same request can succeed later
    │   ├── Overloaded             there is too much to do already
    │   └── ShuttingDown           the server is draining
    ├── UpstreamError            the model server is to blame
    │   ├── UpstreamUnavailable    it cannot be reached, or went away mid-request
    │   ├── UpstreamBusy           it refused because its own queue is full
    │   ├── UpstreamRejected       it called the request invalid
    │   ├── UpstreamModelMissing   it does not have the model, or the model is not ready
    │   ├── UpstreamUnimplemented  it does not offer that kind of call for the model
    │   ├── UpstreamTimeout        its answer did not come within the caller's deadline
    │   └── UpstreamFailed         it failed while working on the request
    ├── FetchError               the server at media's address is to blame
    │   ├── FetchFailed            it gave no media, and will not
    │   └── FetchUnavailable       it could not be reached, broke off, or took too long
    ├── SetupError               what the operator configured cannot work
    │   ├── SettingsError          a key or value of the settings is wrong
    │   ├── RecipeError            a model directory cannot be turned into a recipe
    │   └── ModelMismatch          recipe and model server contradict each other
    └── InternalError            a fault of this program

Errors are born complete (public message, reason, whether a retry can help) and know nothing of
transport; `edge/respond.py` holds the one table from here to gRPC. They cross process boundaries:
an error is rebuilt from its message and `facts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self, final


class SidecarError(Exception):
    """Root of the tree. `message` is public: what was wrong, with which item, and what to do.

    `reason` is the error's name on the wire; `retryable` says whether the same request can succeed
    later; `facts` are for programs (the limit, the value found, the key).
    """

    reason: ClassVar[str] = "INTERNAL_ERROR"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = {key: str(value) for key, value in facts.items()}

    def bare(self) -> Self:
        """The error as a value, to be kept: without the frames that raised it and all that they hold.

        A kept traceback ties the error, its frames and the media in them into a knot that only the
        garbage collector unties, late.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def again(self) -> Self:
        """A fresh copy to raise, where this one is kept."""
        return type(self)(self.message, **self.facts)

    def of(self, label: str) -> Self:
        """The same error, told of the item with that label."""
        return type(self)(f"{label}: {self.message}", **self.facts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(kind: type[SidecarError], message: str, facts: dict[str, str]) -> SidecarError:
    return kind(message, **facts)


def rebuilt(name: str, message: str, facts: Mapping[str, str]) -> SidecarError:
    """An error from its class's name, its message and facts, as a worker process tells it.

    An InternalError for a name that is no leaf's: what a worker says is not trusted further than that.
    """
    kind = _leaves(SidecarError).get(name, InternalError)
    if issubclass(kind, CapacityError) and "retry_after_s" not in facts:
        kind = InternalError
    return kind(message, **facts)


def _leaves(root: type[SidecarError]) -> dict[str, type[SidecarError]]:
    found = {root.__name__: root} if "reason" in vars(root) and root is not SidecarError else {}
    for branch in root.__subclasses__():
        found |= _leaves(branch)
    return found


class CallerError(SidecarError):
    """The request must change before it can succeed."""


@final
class Unauthenticated(CallerError):
    """Who calls is not told, or not so that it can be believed."""

    reason = "UNAUTHENTICATED"


@final
class PermissionDenied(CallerError):
    """Who calls is known, and may not do that."""

    reason = "PERMISSION_DENIED"


class InvalidRequest(CallerError):
    """A field of the request is missing, malformed or out of range. Fact `field` names it."""

    reason = "INVALID_REQUEST"


@final
class WrongItemCount(InvalidRequest):
    """The model takes another number of media items."""

    reason = "WRONG_ITEM_COUNT"


@final
class UnknownModel(CallerError):
    """No model of that name is served here."""

    reason = "UNKNOWN_MODEL"


@final
class WrongModality(CallerError):
    """The model takes another kind of media, or none."""

    reason = "WRONG_MODALITY"


@final
class WrongStream(CallerError):
    """The model's kind of answer needs another RPC: a decoupled model is asked through InferStream."""

    reason = "WRONG_STREAM"


@final
class InvalidInput(CallerError):
    """A plain input contradicts what the model declares. Fact `input` names it."""

    reason = "INVALID_INPUT"


@final
class MediaTooLarge(CallerError):
    """An item passes a limit. Facts: `limit` (its settings key), `allowed`, `found`."""

    reason = "MEDIA_TOO_LARGE"


@final
class Unaffordable(CallerError):
    """The request can never be done here in its time, or with the memory there is."""

    reason = "UNAFFORDABLE"


class MediaError(CallerError):
    """The bytes of an item are to blame. Probe and decode raise nothing else, whatever the bytes."""


@final
class UnsupportedMedia(MediaError):
    """Not a format, or not a variant of one, that is decoded here."""

    reason = "UNSUPPORTED_MEDIA"


@final
class CorruptMedia(MediaError):
    """A known format whose content is empty, cut short or damaged."""

    reason = "CORRUPT_MEDIA"


@final
class MislabelledMedia(CallerError):
    """The content contradicts the content type that the caller declared."""

    reason = "MISLABELLED_MEDIA"


@final
class FetchRefused(CallerError):
    """Media's address is not one that is fetched from here: its host, its scheme, where it leads."""

    reason = "FETCH_REFUSED"


@final
class DeadlineExceeded(CallerError):
    """The caller's deadline passed before the work was done. Fact `stage` says where."""

    reason = "DEADLINE_EXCEEDED"


@final
class CallCancelled(CallerError):
    """The caller went away."""

    reason = "CALL_CANCELLED"


class CapacityError(SidecarError):
    """The same request can succeed later. `retry_after_s` is the hint in seconds."""

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | str, **facts: object) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **facts)

    @property
    def retry_after_s(self) -> float:
        return float(self.facts["retry_after_s"])


@final
class Overloaded(CapacityError):
    """There is too much to do already for the request to be done in its time, or to be kept waiting."""

    reason = "OVERLOADED"


@final
class ShuttingDown(CapacityError):
    """The server is draining; another replica, or this one after its restart, will take the request."""

    reason = "SHUTTING_DOWN"


class UpstreamError(SidecarError):
    """The model server is to blame. Fact `model` is its name there."""


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
    """The model server's answer did not come within the caller's deadline."""

    reason = "UPSTREAM_TIMEOUT"


@final
class UpstreamFailed(UpstreamError):
    """The model server failed while working on the request."""

    reason = "UPSTREAM_FAILED"


class FetchError(SidecarError):
    """The server at media's address is to blame. Fact `host` names it."""


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
    """What the operator configured cannot work."""


@final
class SettingsError(SetupError):
    """A key or value of the settings is wrong. Facts: `key`, `value`, `allowed`."""

    reason = "SETTINGS_ERROR"


@final
class RecipeError(SetupError):
    """A model directory cannot be turned into a recipe."""

    reason = "RECIPE_ERROR"


@final
class ModelMismatch(SetupError):
    """Recipe and model server contradict each other; the message names both sides."""

    reason = "MODEL_MISMATCH"


@final
class InternalError(SidecarError):
    """A fault of this program; the log has the details, the caller gets none of them."""

    reason = "INTERNAL_ERROR"
