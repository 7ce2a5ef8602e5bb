"""How many fetches run at once, and whose turn it is: the tenant's who has the fewest under way.

A tenant whose servers are slow holds no more than its share while others wait. Who waits is bounded too. Nothing of
workers or the gate is held here.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.errors import Overloaded


class Slots:
    """`most` fetches at once, and `most_waiting` that wait. Lives on one event loop."""

    def __init__(self, most: int, most_waiting: int) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._running: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(self, tenant: str) -> AsyncIterator[None]:
        """Waits for a turn and holds it. Raises Overloaded where too many wait."""
        if self._running.total() >= self._most or self._waiting:
            await self._turn(tenant)
        else:
            self._running[tenant] += 1
        try:
            yield
        finally:
            self._end(tenant)

    async def _turn(self, tenant: str) -> None:
        if self.waiting >= self._most_waiting:
            raise Overloaded(
                f"{self.waiting} fetches wait, and `fetch.queued` is {self._most_waiting}: try again after the hinted "
                "time, or send the bytes",
                # Fetches take about as long as media's servers need; out of the air.
                retry_after_s=1.0,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[tenant].append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                # Given in the moment in which its caller left.
                self._end(tenant)
            else:
                self._waiting[tenant].remove(turn)
                self._forget(tenant)
            raise

    def _end(self, tenant: str) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        self._give()

    def _give(self) -> None:
        """To the first who waits of the tenant with the fewest under way."""
        while self._waiting and self._running.total() < self._most:
            tenant = min(self._waiting, key=lambda each: self._running[each])
            turn = self._waiting[tenant].popleft()
            self._forget(tenant)
            if not turn.done():
                self._running[tenant] += 1
                turn.set_result(None)

    def _forget(self, tenant: str) -> None:
        if not self._waiting[tenant]:
            del self._waiting[tenant]
