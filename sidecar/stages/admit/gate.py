"""When an item's turn is: a bounded queue in front of a fixed number of slots, a pair of them a modality.

The gate refuses at once or keeps its word: who is let in gets a ticket in order of arrival, or leaves
by deadline or cancellation. A ticket stands for a worker's thread and outlives its caller: it is
released when the work has really ended. The queue holds encoded bytes only. The gate lives on one event
loop, whose thread alone may change it; `statistics` may be read from any.

The gate never looks at bytes, and never reorders: fair lanes are not its business yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded, InvalidRequest, Overloaded
from sidecar.media import Cost, Modality

# What an item is taken to cost while nothing is known of any: a 1080p JPEG's share. Out of the air.
_UNKNOWN_MS = 20.0
# The shortest hint: a refused caller who came back sooner would only be refused again.
_LEAST_HINT_S = 0.05


@dataclass(frozen=True, slots=True)
class GateConfig:
    """`max_queued`: items of a modality let in that hold no slot yet; past it requests are refused.

    The default keeps the wait near a second where an item costs 10 ms and two cores serve.
    """

    max_queued: Annotated[int, Ge(1)] = 256


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """How full a modality's lane is: items queued and running now; since the start, items admitted and
    requests refused.
    """

    queued: int
    running: int
    admitted_total: int
    refused_total: int


class Ticket:
    """The right to use one slot. Release it exactly when the work has ended; twice does no harm."""

    def __init__(self, lane: _Lane, modality: Modality, cost: Cost) -> None:
        self.modality = modality
        self.cost = cost
        self._lane: _Lane | None = lane

    def release(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.release(self.cost)

    def __repr__(self) -> str:
        state = "held" if self._lane else "released"
        return f"<Ticket {self.modality.value} {self.cost.cpu_ms:.1f} ms {state}>"


class Places:
    """Room in the queue for a request's items; each becomes a ticket, or is given back."""

    def __init__(self, lane: _Lane, count: int) -> None:
        self._lane = lane
        self._left = count

    @property
    def modality(self) -> Modality:
        return self._lane.modality

    async def ticket(self, cost: Cost, deadline: Deadline) -> Ticket:
        """Waits for a slot, first come first served. Raises DeadlineExceeded when none came in time."""
        try:
            return await self._lane.wait(cost, deadline)
        finally:
            self._give_back(1)

    def forgo(self) -> None:
        """Gives back the place of an item that will not need a slot."""
        self._give_back(1)

    def leave(self) -> None:
        """Gives back whatever is left; to be called however the request ends."""
        self._give_back(self._left)

    def _give_back(self, count: int) -> None:
        count = min(count, self._left)
        self._left -= count
        self._lane.queued -= count


class Gate:
    """A lane a modality: its slots, and a bounded queue in front of them."""

    def __init__(self, slots: Mapping[Modality, int], config: GateConfig) -> None:
        self._lanes = {
            modality: _Lane(modality, count, config.max_queued) for modality, count in slots.items()
        }

    def check(self, modality: Modality, count: int) -> None:
        """Refuses as `enter` would, and takes no room: for calls whose media is still on its way."""
        self._lanes[modality].check(count)

    def enter(self, modality: Modality, count: int) -> Places:
        """Makes room for `count` items, or refuses: Overloaded with a hint, InvalidRequest when never."""
        lane = self._lanes[modality]
        lane.check(count)
        lane.queued += count
        return Places(lane, count)

    def statistics(self) -> Mapping[Modality, LaneStatistics]:
        """A snapshot for observers."""
        return {modality: lane.statistics() for modality, lane in self._lanes.items()}

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{modality.value} {now.queued} queued {now.running} running"
            for modality, now in self.statistics().items()
        )
        return f"<Gate {lanes}>"


@dataclass(slots=True)
class _Lane:
    """One modality's slots and queue. `known_ms` is the cost of `known` items, waiting for a slot or in one."""

    modality: Modality
    slots: int
    max_queued: int
    queued: int = 0
    running: int = 0
    admitted_total: int = 0
    refused_total: int = 0
    known: int = 0
    known_ms: float = 0.0
    turns: deque[tuple[asyncio.Future[Ticket], Cost]] = field(default_factory=deque)

    def check(self, count: int) -> None:
        if count > self.max_queued:
            raise InvalidRequest(
                f"the request brings {count} items and the queue holds `gate.max_queued` "
                f"{self.max_queued}: send them in several requests",
                field="media",
            )
        if self.queued + count > self.max_queued:
            self.refused_total += 1
            raise Overloaded(
                f"{self.queued} {self.modality.value} items are waiting and the queue holds `gate.max_queued` "
                f"{self.max_queued}: try again after the hinted time, or add replicas",
                retry_after_s=f"{self._backlog_s():.3f}",
            )

    async def wait(self, cost: Cost, deadline: Deadline) -> Ticket:
        deadline.check("admit")
        self._known(cost, 1)
        if self.running < self.slots:
            self.running += 1
            return self._issue(cost)
        turn: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self.turns.append((turn, cost))
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                turn.result().release()
            else:
                self._known(cost, -1)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    "the deadline passed while the item waited for a worker; allow more time or send less at once",
                    stage="admit",
                ) from None
            raise

    def release(self, cost: Cost) -> None:
        self._known(cost, -1)
        while self.turns:
            turn, waiting = self.turns.popleft()
            if not turn.done():
                turn.set_result(self._issue(waiting))
                return
        self.running -= 1

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(self.queued, self.running, self.admitted_total, self.refused_total)

    def _issue(self, cost: Cost) -> Ticket:
        self.admitted_total += 1
        return Ticket(self, self.modality, cost)

    def _known(self, cost: Cost, sign: int) -> None:
        self.known += sign
        self.known_ms += sign * cost.cpu_ms

    def _backlog_s(self) -> float:
        """The time in which all that is in the lane is worked off; unprobed items count as the others' mean."""
        mean = self.known_ms / self.known if self.known else _UNKNOWN_MS
        unknown = self.queued + self.running - self.known
        return max(_LEAST_HINT_S, (self.known_ms + unknown * mean) / 1e3 / self.slots)
