"""Calls that run on at the model server when their callers have gone: their answers are dropped.

For those that must not be cancelled there (see `triton.py` and `cancelling.py`). What they may hold is bounded: a
server that has stopped answering must not keep them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from grpc import aio

from sidecar.deadline import Deadline

T = TypeVar("T")

# Of inputs of all such calls together. Out of the air.
_MOST_BYTES: Final = 64 * 1024 * 1024
LONGEST_S: Final = 60.0
"""How long after its caller's deadline a call may go on, seconds; then it is cancelled after all. Out of the air."""


class _Call(Protocol):
    """A task, or a call to the model server."""

    def add_done_callback(self, callback: Callable[[Any], None], /) -> None: ...


class Outliving:
    """Such calls; `total` counts those that ever were."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Future[None], int] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._calls)

    def has_room(self, nbytes: int) -> bool:
        """Whether one with so many bytes of inputs may run on."""
        return sum(self._calls.values()) + nbytes <= _MOST_BYTES

    async def run(
        self, work: Coroutine[Any, Any, T], deadline: Deadline, nbytes: int, drop: Callable[[T], None]
    ) -> T:
        """Awaits `work` until the deadline; where it passes, or the caller goes, `work` goes on and `drop` is given
        what comes of it. Raises TimeoutError.
        """
        asking = asyncio.create_task(work, name="infer")
        try:
            await _ended(asking, deadline)
        except (asyncio.CancelledError, TimeoutError):
            self._leave(asking, nbytes)
            asking.add_done_callback(lambda asked: _drop(asked, drop))
            raise
        return asking.result()

    async def hold(self, call: aio.UnaryUnaryCall[Any, T], deadline: Deadline, nbytes: int) -> T:
        """The same of a call to the model server that is under way, and of which nothing is to be dropped; it costs
        no task. Raises what the call does, too.
        """
        try:
            await _ended(call, deadline)
        except (asyncio.CancelledError, TimeoutError):
            self._leave(call, nbytes)
            raise
        return await call

    async def ended(self, seconds: float) -> None:
        """Returns when none is left, or the time is over."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)

    def _leave(self, call: _Call, nbytes: int) -> None:
        """Keeps what is under way until it ends."""
        self.total += 1
        end = asyncio.get_running_loop().create_future()
        self._calls[end] = nbytes

        def ended(_call: object) -> None:
            del self._calls[end]
            end.set_result(None)

        call.add_done_callback(ended)


async def _ended(call: _Call, deadline: Deadline) -> None:
    """Returns when the call has ended, which nothing here makes it do. Raises TimeoutError."""
    end = asyncio.get_running_loop().create_future()

    def ended(_call: object) -> None:
        if not end.done():
            end.set_result(None)

    call.add_done_callback(ended)
    if (seconds := deadline.remaining_s()) is None:
        await end
        return
    async with asyncio.timeout(seconds):
        await end


def _drop(asked: asyncio.Task[T], drop: Callable[[T], None]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        drop(asked.result())
