"""Calls that are handed on to the model server as they came, and its answers as they are: bytes that nobody reads.

The one place where an error of gRPC leaves as itself, for it is told to the caller as it is. A unary call that may not
be cancelled at the server runs on there when its caller goes (`outliving.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from grpc import aio

from sidecar.deadline import Deadline
from sidecar.stages.deliver.faults import without_addresses
from sidecar.stages.deliver.outliving import LONGEST_S, Outliving
from sidecar.stages.deliver.wire import SERVICE

Headers = Sequence[tuple[str, str | bytes]]
_INFER: Final = "ModelInfer"
_STREAM: Final = "ModelStreamInfer"


@dataclass(frozen=True, slots=True)
class Passed:
    """An answer as it came."""

    message: bytes
    trailers: Headers


class Said(Exception):
    """A status with which the model server ended a call, to be told as it is."""

    def __init__(self, status: grpc.StatusCode, words: str, trailers: Headers = ()) -> None:
        super().__init__(f"{status.name}: {words}")
        self.status = status
        self.words = words
        self.trailers = trailers

    @classmethod
    def of(cls, error: aio.AioRpcError) -> Said:
        """What gRPC raised."""
        words = without_addresses(error.details() or "")
        return cls(error.code(), words, tuple(error.trailing_metadata() or ()))


class Passing:
    """Over the channel to the model server. `cancels` says whether calls may be cancelled there; `own` is what
    names of arenas begin with, ours and those of other sidecars, which no caller may name.
    """

    def __init__(
        self, channel: aio.Channel, outliving: Outliving, cancels: Callable[[], bool], own: str
    ) -> None:
        self.own = own
        self._outliving = outliving
        self._cancels = cancels
        self._channel = channel
        self._methods: dict[str, aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._stream: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"{SERVICE}{_STREAM}"
        )

    async def unary(self, method: str, message: bytes, deadline: Deadline, headers: Headers) -> Passed:
        """Hands a call on. Raises Said."""
        if method not in self._methods:
            self._methods[method] = self._channel.unary_unary(f"{SERVICE}{method}")
        outlives = method == _INFER and not self._cancels() and self._outliving.has_room(len(message))
        longest = deadline.later(LONGEST_S) if outlives else deadline
        call = self._methods[method](message, timeout=longest.remaining_s(), metadata=headers or None)
        try:
            answer = await (self._outliving.hold(call, deadline, len(message)) if outlives else call)
            return Passed(answer, tuple(await call.trailing_metadata() or ()))
        except TimeoutError:
            raise Said(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        except aio.AioRpcError as error:
            raise Said.of(error) from error

    def stream(self, deadline: Deadline, headers: Headers) -> aio.StreamStreamCall[bytes, bytes]:
        """A stream to the model server; whoever has it cancels it."""
        return self._stream(timeout=deadline.remaining_s(), metadata=headers or None)
