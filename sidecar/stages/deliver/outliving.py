"""Calls that run on at the model server when their callers have gone: their answers are dropped.

For those that must not be cancelled there (see `triton.py` and `cancelling.py`). What they may hold is bounded: a
server that has stopped answering must not keep them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sidecar.deadline import Deadline

T = TypeVar("T")

# Of inputs of all such calls together. Out of the air.
_MOST_BYTES: Final = 64 * 1024 * 1024
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

    def has_room(self, nbytes: int) -> bool:
        """Whether one with so many bytes of inputs may run on."""
        return sum(self._calls.values()) + nbytes <= _MOST_BYTES

    async def run(
        self, call: asyncio.Future[T], deadline: Deadline, nbytes: int, drop: Callable[[T], None] = _forget
    ) -> T:
        """Awaits a call, or a task, until the deadline; where it passes, or the caller goes, `call` goes on and `drop`
        is given what comes of it. Raises TimeoutError.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await asyncio.shield(call)
        except (asyncio.CancelledError, TimeoutError):
            self.total += 1
            self._calls[call] = nbytes
            call.add_done_callback(lambda asked: self._end(asked, drop))
            raise

    async def ended(self, seconds: float) -> None:
        """Returns when none is left, or the time is over."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)

    def _end(self, asked: asyncio.Future[T], drop: Callable[[T], None]) -> None:
        del self._calls[asked]
        if not asked.cancelled() and asked.exception() is None:
            drop(asked.result())
