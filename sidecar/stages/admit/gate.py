"""The gate: refuses a call at once, or gives each of its items a slot when its turn has come.

Who is let in and whose turn it is are decided elsewhere (`Turns`); here are the effects: slots of workers, memory,
upstream room, futures and refusals. A ticket stands for a slot and outlives its caller: it is released when the work
has really ended. The queue holds encoded bytes only, and a bounded number of them; the room for what is made of an
item is taken when its turn comes, and an item that finds none keeps those behind it from taking it away. An item
whose call has its room already may pass it, for then that call ends.

The gate lives on one event loop, whose thread alone may change it; `statistics` may be read from any. It never
looks at bytes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final, NoReturn, Protocol

from annotated_types import Ge

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded, Overloaded, Unaffordable
from sidecar.media import Cost, Modality
from sidecar.stages.admit.lanes import LanesConfig, cost_class
from sidecar.stages.admit.turns import Asker, Drop, Refusal, Turns, Verdict, Work

# A hint's bounds in seconds, and how it is spread, so that those refused together do not come back together.
_LEAST_HINT_S, _MOST_HINT_S = 0.02, 5.0
_SPREAD = (0.8, 1.2)
# When encoded media that waits has made room for more. Out of the air.
_MEMORY_HINT_S = 0.25


@dataclass(frozen=True, slots=True)
class GateConfig(LanesConfig):
    """Beside who is let in and in which order: `memory_bytes`, for decoded media of items under way and as much
    again for encoded media that wait; 0 chooses by itself. `tenant_key`: the metadata key by which callers name
    their tenant; empty: they are one.
    """

    memory_bytes: Annotated[int, Ge(0)] = 0
    tenant_key: str = "x-tenant-id"


@dataclass(frozen=True, slots=True)
class Slots:
    """What the workers can take: items of each modality at once, of all of them together, and small ones beside."""

    each: Mapping[Modality, int]
    together: int
    express: int = 0


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """How full the gate is for a modality: items waiting and running now; since the start, items that were given
    a slot, items dropped at their turn, and calls refused.
    """

    queued: int
    running: int
    admitted_total: int
    dropped_total: int
    refused_total: int


class Ticket:
    """The right to use one slot. Release it exactly when the work has ended; twice does no harm.

    `express`: it is one of those for small items.
    """

    def __init__(self, gate: Gate, work: Work, *, express: bool) -> None:
        self.modality = work.asker.modality
        self.cost = work.cost
        self.express = express
        self._work = work
        self._gate: Gate | None = gate

    def release(self, cpu_ms: float = 0.0) -> None:
        """`cpu_ms` is what the work took, in milliseconds of one core."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.end(self._work, cpu_ms, express=self.express)

    def __repr__(self) -> str:
        state = "held" if self._gate else "released"
        return f"<Ticket {self.modality.value} {self.cost.cpu_ms:.1f} ms {state}>"


class Room(Protocol):
    """What a call needs of the arena, all of it at once."""

    @property
    def held(self) -> bool:
        """Whether the call has it."""
        ...

    def take(self) -> bool:
        """Takes it if it is there; whether the call has it now."""
        ...


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The room of a call that needs none."""

    held: bool = True

    def take(self) -> bool:
        return True


@dataclass(eq=False, slots=True)
class _Call:
    """What the items of a call have in common: its room, and how many of them are in the queue."""

    room: Room
    waiting: int


@dataclass(eq=False, slots=True)
class _Waiting:
    """An item in the queue, and its caller's future. `taken`: the caller has its ticket."""

    work: Work
    turn: asyncio.Future[Ticket]
    call: _Call
    taken: bool = False


class Places:
    """A call's items in the queue; each becomes a ticket or is given back."""

    def __init__(self, gate: Gate, waiting: Sequence[_Waiting]) -> None:
        self._gate = gate
        self._waiting = waiting

    async def ticket(self, index: int) -> Ticket:
        """Waits for the turn of the call's item `index`.

        Raises DeadlineExceeded when it did not come in time, and Overloaded when it waited far too long.
        """
        waiting = self._waiting[index]
        try:
            if not waiting.turn.done():
                async with asyncio.timeout(Deadline(waiting.work.asker.deadline_ns).remaining_s()):
                    await waiting.turn
            ticket = waiting.turn.result()
            waiting.taken = True
        except TimeoutError:
            raise _late() from None
        finally:
            self._gate.withdraw(waiting)
        return ticket

    def leave(self) -> None:
        """Gives back all that is left; to be called however the call ends. Tickets that were taken stay."""
        for waiting in self._waiting:
            self._gate.withdraw(waiting)
        self._waiting = ()


_NO_ROOM = NoRoom()


class Gate:
    """Slots, and a queue in front of them. `done_ms` is the work that has ended, by what it was predicted to cost."""

    def __init__(
        self,
        turns: Turns,
        slots: Slots,
        *,
        memory_bytes: int,
        upstream_room: Callable[[str], bool] = lambda _model: True,
    ) -> None:
        """`memory_bytes` as GateConfig says, chosen; `upstream_room` tells whether a model can take more now."""
        self._turns = turns
        self._slots = slots
        self._memory_bytes = memory_bytes
        self._upstream_room = upstream_room
        self._waiting: dict[Work, _Waiting] = {}
        self._waiting_bytes = 0
        self._queued: Counter[Modality] = Counter()
        self._running: Counter[Modality] = Counter()
        self._express = 0
        self._decoding_bytes = 0
        # Who found no room of the arena, and who found no memory: until it does, leaves, or has to wait for the
        # model server anyway, nobody else takes any.
        self._short: Work | None = None
        self._large: Work | None = None
        # Whether somebody was just kept back for one of them in vain.
        self._again = False
        # Items in the queue whose calls have their room.
        self._ready = 0
        # Why the item of which `_may` said yes last is dropped instead.
        self._drop: Drop | None = None
        self._kicking = False
        self._admitted: Counter[Modality] = Counter()
        self._dropped: Counter[Modality] = Counter()
        self._refused: Counter[Modality] = Counter()
        self.done_ms = 0.0

    def crowded(self, threads: Mapping[Modality, int]) -> frozenset[Modality]:
        """The modalities of which items wait while at least so many have slots."""
        return frozenset(
            modality
            for modality, most in threads.items()
            if self._queued[modality] and self._running[modality] >= most
        )

    def resize(self, slots: Slots, cores: int) -> None:
        """Goes by other slots, of so many cores, from now on. Who has one keeps it."""
        self._slots = slots
        self._turns.resize(cores, slots.express)
        self.kick()

    def check(self, asker: Asker, count: int) -> None:
        """Refuses what would be refused whatever its items cost: for calls whose media has not come yet.

        Raises as `enter` does.
        """
        if (refusal := self._turns.full(asker, count, time.monotonic_ns())) is not None:
            self._refuse(asker, refusal)

    def require(self, asker: Asker, costs: Sequence[Cost]) -> None:
        """Refuses as `enter` would, and takes no room: for calls whose media is still on its way."""
        if (refusal := self.foretell(asker, costs).refusal) is not None:
            self._refuse(asker, refusal)

    def foretell(self, asker: Asker, costs: Sequence[Cost]) -> Verdict:
        """What `enter` would say now, and how long the items would take."""
        now_ns = time.monotonic_ns()
        works = [Work(asker, cost) for cost in costs]
        verdict = self._turns.judge(works, now_ns)
        refusal = self._turns.full(asker, len(works), now_ns) or self._over(works) or verdict.refusal
        return Verdict(verdict.wait_s, refusal)

    @contextmanager
    def holding(self, asker: Asker, nbytes: int) -> Iterator[None]:
        """Counts media that waits outside the queue, for another call's work. Raises as `enter` past the memory."""
        if (refusal := self._crammed(nbytes)) is not None:
            self._refuse(asker, refusal)
        self._waiting_bytes += nbytes
        try:
            yield
        finally:
            self._waiting_bytes -= nbytes

    def enter(
        self,
        asker: Asker,
        costs: Sequence[Cost],
        sizes: Sequence[int],
        room: Room = _NO_ROOM,
    ) -> Places:
        """Lets a call's items into the queue, or refuses them: their costs, and the bytes that they hold waiting.

        `room` is taken before the first of them begins. Raises Overloaded with a hint, Unaffordable when it can
        never be, and DeadlineExceeded.
        """
        now_ns = time.monotonic_ns()
        if asker.deadline_ns is not None and asker.deadline_ns <= now_ns:
            raise _late()
        works = [Work(asker, cost, size) for cost, size in zip(costs, sizes, strict=True)]
        refusal = self._turns.full(asker, len(works), now_ns) or self._over(works)
        if refusal is None:
            verdict = self._turns.judge(works, now_ns)
            refusal = verdict.refusal
        if refusal is not None:
            self._refuse(asker, refusal)
        loop = asyncio.get_running_loop()
        call = _Call(room, len(works))
        waiting = [_Waiting(work, loop.create_future(), call) for work in works]
        for one in waiting:
            one.work.promised_s = verdict.wait_s
            self._turns.join(one.work, now_ns)
            self._waiting[one.work] = one
            self._waiting_bytes += one.work.bytes
        self._queued[asker.modality] += len(works)
        self._ready += len(works) * room.held
        self.kick()
        return Places(self, waiting)

    def kick(self) -> None:
        """Gives out what can be; to be called whenever there is more room: of slots, of the arena, or upstream."""
        if self._kicking:
            return
        self._kicking = True
        try:
            work, self._again = None, True
            while work is not None or self._again:
                self._again = False
                work = self._turns.begin(time.monotonic_ns(), self._may)
                if work is not None:
                    self._begin(self._gone(work))
        finally:
            self._kicking = False

    def withdraw(self, waiting: _Waiting) -> None:
        """Takes back an item whose caller does not wait for its turn any more, wherever it is."""
        if waiting.taken:
            return
        if waiting.work in self._waiting:
            self._turns.leave(waiting.work, time.monotonic_ns())
            self._gone(waiting.work)
            self.kick()
        elif waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
            waiting.turn.result().release()

    def end(self, work: Work, cpu_ms: float, *, express: bool) -> None:
        """For tickets alone: the work has ended."""
        self.done_ms += work.cost.cpu_ms if cpu_ms else 0.0
        self._decoding_bytes -= work.cost.decoded_bytes
        self._running[work.asker.modality] -= not express
        self._express -= express
        self._turns.ended(work, cpu_ms, time.monotonic_ns())
        self.kick()

    def _may(self, work: Work) -> bool:
        """Whether an item may begin now, with its room taken; or is to be dropped, which needs none."""
        self._drop = self._turns.drop(work, time.monotonic_ns())
        if self._drop is not None:
            return True
        asker = work.asker
        work.passable = False
        if not (self._has_slot(work) or self._is_express(work)):
            return False
        if asker.delivers and not self._upstream_room(asker.model):
            self._again |= self._let_by(work)
            return False
        return self._has_memory(work) and self._has_room(work)

    def _has_slot(self, work: Work) -> bool:
        modality = work.asker.modality
        room = self._running[modality] < self._slots.each[modality]
        return room and self._running.total() < self._slots.together

    def _is_express(self, work: Work) -> bool:
        return self._express < self._slots.express and not cost_class(work.cost.cpu_ms)

    def _has_memory(self, work: Work) -> bool:
        if self._large not in {None, work}:
            return False
        decoding = self._decoding_bytes
        fits = not decoding or decoding + work.cost.decoded_bytes <= self._memory_bytes
        self._large = None if fits else work
        return fits

    def _has_room(self, work: Work) -> bool:
        call = self._waiting[work].call
        if call.room.held:
            return True
        if self._short in {None, work} and call.room.take():
            self._short = None
            self._ready += call.waiting
            return True
        self._short = self._short or work
        work.passable = self._ready > 0
        return False

    def _let_by(self, work: Work) -> bool:
        """Keeps nobody back for an item any more; whether it did."""
        did = work in {self._short, self._large}
        self._short = None if self._short is work else self._short
        self._large = None if self._large is work else self._large
        return did

    def _begin(self, waiting: _Waiting) -> None:
        work, modality = waiting.work, waiting.work.asker.modality
        if self._drop is not None or waiting.turn.done():
            self._turns.ended(work, 0.0, time.monotonic_ns())
            if self._drop is not None and not waiting.turn.done():
                self._dropped[modality] += 1
                waiting.turn.set_exception(_late() if self._drop is Drop.LATE else _stale())
                waiting.turn.exception()  # seen: its caller may have left already
            return
        express = self._is_express(work)
        self._express += express
        self._running[modality] += not express
        self._decoding_bytes += work.cost.decoded_bytes
        self._admitted[modality] += 1
        waiting.turn.set_result(Ticket(self, work, express=express))

    def _gone(self, work: Work) -> _Waiting:
        """Takes an item off the books of those that wait."""
        waiting = self._waiting.pop(work)
        self._waiting_bytes -= work.bytes
        self._queued[work.asker.modality] -= 1
        waiting.call.waiting -= 1
        self._ready -= waiting.call.room.held
        self._let_by(work)
        return waiting

    def _over(self, works: Sequence[Work]) -> Refusal | None:
        """Why the memory does not suffice for what items hold while they wait, or for what they decode to."""
        largest = max(work.cost.decoded_bytes for work in works)
        held = sum(work.bytes for work in works)
        allowed = f"`gate.memory_bytes` is {self._memory_bytes}"
        if largest > self._memory_bytes:
            return Refusal(
                f"brings an item that decodes to {largest} bytes, and {allowed}: send a smaller one", None
            )
        return self._crammed(held)

    def _crammed(self, nbytes: int) -> Refusal | None:
        """Why there is no memory for so many bytes more of media that waits."""
        if nbytes > self._memory_bytes:
            why = f"brings {nbytes} bytes, and `gate.memory_bytes` is {self._memory_bytes}: send them in several"
            return Refusal(why, None)
        if self._waiting_bytes + nbytes <= self._memory_bytes:
            return None
        return Refusal(
            f"brings {nbytes} bytes of media beside {self._waiting_bytes} that wait already, and "
            f"`gate.memory_bytes` is {self._memory_bytes}",
            _MEMORY_HINT_S,
        )

    def _refuse(self, asker: Asker, refusal: Refusal) -> NoReturn:
        self._refused[asker.modality] += 1
        raise refused(refusal)

    def statistics(self) -> Mapping[Modality, GateStatistics]:
        """A snapshot for observers."""
        return {
            modality: GateStatistics(
                self._queued[modality],
                self._running[modality],
                self._admitted[modality],
                self._dropped[modality],
                self._refused[modality],
            )
            for modality in self._slots.each
        }

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{modality.value} {now.queued} queued {now.running} running"
            for modality, now in self.statistics().items()
        )
        return f"<Gate {lanes}>"


# What a process takes that has done nothing yet, and the front; measured with a recipe of each kind loaded.
BARE_BYTES: Final = 64 << 20
FRONT_BYTES: Final = 192 << 20
_LEAST_MEMORY, _MOST_MEMORY = 64 << 20, 4 << 30


def choose_memory_bytes(asked: int, limit: int, arena: int, processes: int) -> int:
    """`gate.memory_bytes`: what was asked, or for 0 half of what is left of `limit` bytes beside the arena and what
    the processes take by themselves: the other half is for media that waits.
    """
    left = limit - arena - FRONT_BYTES - processes * BARE_BYTES
    return asked or min(_MOST_MEMORY, max(_LEAST_MEMORY, left // 2))


def refused(refusal: Refusal) -> Overloaded | Unaffordable:
    """A refusal as the error that its caller is told, with a hint that is spread."""
    if refusal.retry_after_s is None:
        return Unaffordable(f"the request {refusal.why}")
    hint_s = min(_MOST_HINT_S, max(_LEAST_HINT_S, refusal.retry_after_s)) * random.uniform(*_SPREAD)  # noqa: S311 - no secret
    return Overloaded(
        f"the request {refusal.why}: try again after the hinted time, or add replicas",
        retry_after_s=f"{hint_s:.3f}",
    )


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed while the item waited for a worker; allow more time or send less at once",
        stage="admit",
    )


def _stale() -> Overloaded:
    return Overloaded(
        "the item has waited much longer than was foretold: try again after the hinted time, or add replicas",
        retry_after_s=_MOST_HINT_S,
    )
