"""Calls that are handed on to the model server as they came, and its answers as they are: bytes that nobody reads.

The one place where an error of gRPC leaves as itself, for it is told to the caller as it is. A unary call that may not
be cancelled at the server runs on there when its caller goes (`outliving.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc
from grpc import aio

from sidecar.deadline import Deadline
from sidecar.stages.deliver.faults import without_addresses
from sidecar.stages.deliver.outliving import LONGEST_S, Outliving
from sidecar.stages.deliver.unary import Metadata, Reply, UnaryCalls
from sidecar.stages.deliver.wire import SERVICE

_INFER: Final = "ModelInfer"
_STREAM: Final = "ModelStreamInfer"


class Said(Exception):
    """A status with which the model server ended a call, to be told as it is."""

    def __init__(self, status: grpc.StatusCode, words: str, trailers: Metadata = ()) -> None:
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
        self,
        channel: aio.Channel,
        calls: UnaryCalls,
        outliving: Outliving,
        cancels: Callable[[], bool],
        own: str,
    ) -> None:
        self.own = own
        self._calls = calls
        self._outliving = outliving
        self._cancels = cancels
        self._channel = channel
        self._methods: dict[str, aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._stream: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"{SERVICE}{_STREAM}"
        )

    async def unary(self, method: str, message: bytes, deadline: Deadline, headers: Metadata) -> Reply:
        """Hands a call on. Raises Said."""
        try:
            if method == _INFER:
                return await self._infer(message, deadline, headers)
            if method not in self._methods:
                self._methods[method] = self._channel.unary_unary(f"{SERVICE}{method}")
            call = self._methods[method](message, timeout=deadline.remaining_s(), metadata=headers or None)
            answer = await call
            return Reply(answer, tuple(await call.trailing_metadata() or ()))
        except TimeoutError:
            raise Said(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        except aio.AioRpcError as error:
            raise Said.of(error) from error

    def stream(self, deadline: Deadline, headers: Metadata) -> aio.StreamStreamCall[bytes, bytes]:
        """A stream to the model server; whoever has it cancels it."""
        return self._stream(timeout=deadline.remaining_s(), metadata=headers or None)

    async def _infer(self, message: bytes, deadline: Deadline, headers: Metadata) -> Reply:
        if self._cancels():
            return await self._calls.begin(_INFER, message, deadline.remaining_s(), headers)
        longest = deadline.later(LONGEST_S)
        call = self._calls.begin(_INFER, message, longest.remaining_s(), headers)
        return await self._outliving.run(call, deadline, len(message))
