"""When an item's turn is: a bounded queue in front of a fixed number of slots a modality.

The gate refuses at once or keeps its word: who is let in gets a ticket in order of arrival, or leaves
by deadline or cancellation. A ticket stands for a worker's thread and outlives its caller: it is
released when the work has really ended. The queue holds encoded bytes only. One event loop's thread
may touch the gate; tickets may be released from there alone.

The gate never looks at bytes, and never reorders: fair lanes are not its business yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded, InvalidRequest, Overloaded
from sidecar.media import Cost, Modality


@dataclass(frozen=True, slots=True)
class GateConfig:
    """`max_queued`: items let in that hold no slot yet; past it requests are refused with a hint.

    The default keeps the wait near a second where an item costs 10 ms and two cores serve.
    """

    max_queued: Annotated[int, Ge(1)] = 256


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """How full the gate is: counts of items now, and of requests and tickets since the start."""

    queued: int
    running: Mapping[Modality, int]
    admitted_total: int
    refused_total: int


class Ticket:
    """The right to use one slot. Release it exactly when the work has ended; twice does no harm."""

    def __init__(self, gate: Gate, modality: Modality, cost: Cost) -> None:
        self.modality = modality
        self.cost = cost
        self._gate: Gate | None = gate

    def release(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._release(self)  # noqa: SLF001 - gate and ticket are one idea

    def __repr__(self) -> str:
        state = "held" if self._gate else "released"
        return f"<Ticket {self.modality.value} {self.cost.cpu_ms:.1f} ms {state}>"


class Places:
    """Room in the queue for a request's items; each becomes a ticket or is given back by `leave`."""

    def __init__(self, gate: Gate, count: int) -> None:
        self._gate = gate
        self._left = count

    async def ticket(self, modality: Modality, cost: Cost, deadline: Deadline) -> Ticket:
        """Waits for a slot, first come first served. Raises DeadlineExceeded when none came in time."""
        try:
            return await self._gate._wait(modality, cost, deadline)  # noqa: SLF001 - one idea
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
        self._gate._queued -= count  # noqa: SLF001 - one idea


class Gate:
    """Slots a modality and one bounded queue in front of them."""

    def __init__(self, slots: Mapping[Modality, int], config: GateConfig) -> None:
        self._free = dict(slots)
        self._slots = dict(slots)
        self._config = config
        self._queued = 0
        self._waiting: dict[Modality, deque[tuple[asyncio.Future[Ticket], Cost]]] = {
            modality: deque() for modality in slots
        }
        self._backlog_ms = 0.0
        self._admitted_total = 0
        self._refused_total = 0

    def enter(self, count: int) -> Places:
        """Makes room for `count` items, or refuses: Overloaded with a hint, InvalidRequest when never."""
        if count > self._config.max_queued:
            raise InvalidRequest(
                f"the request brings {count} items and the queue holds `gate.max_queued` "
                f"{self._config.max_queued}: send them in several requests",
                field="media",
            )
        if self._queued + count > self._config.max_queued:
            self._refused_total += 1
            raise Overloaded(
                f"{self._queued} items are waiting and the queue holds `gate.max_queued` "
                f"{self._config.max_queued}: try again after the hinted time, or add replicas",
                retry_after_s=f"{self._wait_estimate_s():.3f}",
            )
        self._queued += count
        return Places(self, count)

    def statistics(self) -> GateStatistics:
        """A snapshot for observers."""
        running = {modality: self._slots[modality] - free for modality, free in self._free.items()}
        return GateStatistics(self._queued, running, self._admitted_total, self._refused_total)

    def __repr__(self) -> str:
        now = self.statistics()
        running = ", ".join(
            f"{modality.value} {count}/{self._slots[modality]}" for modality, count in now.running.items()
        )
        return f"<Gate queued {now.queued}/{self._config.max_queued}, running {running}>"

    def _wait_estimate_s(self) -> float:
        """The time in which the present backlog is worked off, at least 50 ms. Unit: seconds."""
        return max(0.05, self._backlog_ms / 1e3 / max(1, sum(self._slots.values())))

    async def _wait(self, modality: Modality, cost: Cost, deadline: Deadline) -> Ticket:
        deadline.check("admit")
        if self._free[modality] > 0:
            self._free[modality] -= 1
            return self._issue(modality, cost)
        turn: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._waiting[modality].append((turn, cost))
        self._backlog_ms += cost.cpu_ms
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                turn.result().release()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    "the deadline passed while the item waited for a worker; allow more time or send less at once",
                    stage="admit",
                ) from None
            raise
        finally:
            self._backlog_ms -= cost.cpu_ms

    def _issue(self, modality: Modality, cost: Cost) -> Ticket:
        self._admitted_total += 1
        return Ticket(self, modality, cost)

    def _release(self, ticket: Ticket) -> None:
        waiting = self._waiting[ticket.modality]
        while waiting:
            turn, cost = waiting.popleft()
            if not turn.done():
                turn.set_result(self._issue(ticket.modality, cost))
                return
        self._free[ticket.modality] += 1
