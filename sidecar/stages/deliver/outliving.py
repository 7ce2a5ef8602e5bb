"""Calls that run on at the model server when their callers have gone: their answers are dropped.

For those that must not be cancelled there (see `triton.py` and `cancelling.py`). What they may hold is bounded. Past a
first bound a call keeps its caller's place until it ends, so that those who leave are held up like those who stay; only
past a second, or a while, is it cancelled after all: a server that has stopped answering must not keep them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from sidecar.deadline import Deadline

T = TypeVar("T")

# Of inputs of all such calls together: those whose callers' places are free again, and all. Out of the air.
_FREED_BYTES: Final = 64 * 1024 * 1024
_MOST_BYTES: Final = 4 * _FREED_BYTES
# How long a call may keep its caller's place, seconds: more than any model that answers takes, less than a drain.
_STAYS_S: Final = 10.0
LONGEST_S: Final = 60.0
"""How long after its caller's deadline a call may go on, seconds; then it is cancelled after all. Out of the air."""


def _forget(_answer: object) -> None:
    """What is done with an answer that holds nothing."""


class Outliving:
    """Such calls; `total` counts those that ever were."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Future[Any], int] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._calls)

    async def run(
        self,
        call: asyncio.Future[T],
        deadline: Deadline,
        nbytes: int,
        drop: Callable[[T], None] = _forget,
        *,
        always: bool = False,
    ) -> T:
        """Awaits a call, or a task, until the deadline; where it passes, or the caller goes, `call` goes on and `drop`
        is given what comes of it. Raises TimeoutError.

        `nbytes` are those of its inputs; `always` that it may not be cancelled, whatever it holds.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await asyncio.shield(call)
        except (asyncio.CancelledError, TimeoutError):
            held = 0 if always else sum(self._calls.values()) + nbytes
            self.total += 1
            self._calls[call] = nbytes
            call.add_done_callback(lambda asked: self._end(asked, drop))
            if held > _FREED_BYTES:
                await _stay(call, _STAYS_S if held <= _MOST_BYTES else 0.0)
            raise

    async def ended(self, seconds: float) -> None:
        """Returns when none is left, or the time is over."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)

    def _end(self, asked: asyncio.Future[T], drop: Callable[[T], None]) -> None:
        del self._calls[asked]
        if not asked.cancelled() and asked.exception() is None:
            drop(asked.result())


async def _stay(call: asyncio.Future[Any], seconds: float) -> None:
    """Returns once the call has ended, which it is made to after a while, whoever wants this to end sooner."""
    loop = asyncio.get_running_loop()
    patience = loop.call_later(seconds, call.cancel)
    try:
        while not call.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([call])
    finally:
        patience.cancel()
