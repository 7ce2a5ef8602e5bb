"""What the server said of an asyncio call, whatever grpc.aio makes of it afterwards.

When the server ends an upload before all of it was sent, such as a file too large, a write fails too,
and grpc.aio then puts its own INTERNAL in the place of the server's status, before or after that came
(grpc/grpc#36066, open as of grpcio 1.85; the blocking API is free of it). So every status is noted as
it comes, and the server's is taken. Only gRPC's public methods are used; without the fault this
changes nothing, and it can go once the least grpcio that is supported is free of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio

ValueT = TypeVar("ValueT")

# How grpc.aio words a failed write.
_FAILED_WRITE = (grpc.StatusCode.INTERNAL, "Internal error from Core")
# For the server's status to come after a failed write. It is on its way already; out of the air.
_PATIENCE_S = 1.0


class Verdict:
    """Notes what the server says of `call`; to be made before anything is awaited on it."""

    def __init__(self, call: grpc.aio.Call) -> None:
        self._said: grpc.aio.AioRpcError | None = None
        self._is_said = asyncio.Event()
        call.add_done_callback(self._note)

    async def of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The error that the server meant; `error` itself unless it only tells of a failed write."""
        if (error.code(), error.details()) != _FAILED_WRITE:
            return error
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._is_said.wait()
        return self._said or error

    def _note(self, call: Any) -> None:  # noqa: ANN401 - gRPC's types know no common class of its calls
        """Called with every status that the call is given."""
        code = _at_once(call.code())
        if code is grpc.StatusCode.OK:
            return
        details, trailing = _at_once(call.details()), _at_once(call.trailing_metadata())
        if (code, details) != _FAILED_WRITE:
            self._said = grpc.aio.AioRpcError(code, None, trailing, details)
            self._is_said.set()


def _at_once(coroutine: Coroutine[Any, Any, ValueT]) -> ValueT:
    """The result of a coroutine that has nothing to wait for: a call's status once it has one."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: ValueT = done.value
        return value
    coroutine.close()
    raise AssertionError("a call with a status had to be waited for")
