"""Identical items at the same moment: the first is prepared, the others wait and are given the same tensors.

A leader who is cancelled, late by its own deadline, refused or killed costs its followers nothing but time: the
next of them leads. What the bytes themselves are to blame for is every follower's problem as well.

**Law:** who holds slots of the arena, or will before it is told what became of its leader, only follows leaders who
have begun, which means: who have all the slots that they need. A leader who waited for slots could else wait for its
own followers. So a call with one item joins before it enters the queue, since it holds nothing while it follows;
an item of several follows, and leads only when its turn has come. Where the two meet, work may be done twice.

A follower in the queue is as late as its leader. So the key of a flight is the item's address and whatever else sets
callers apart in the queue, such as their priority: what one of them has made, the others find kept.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Self

from sidecar.deadline import Deadline
from sidecar.errors import CallCancelled, CallerError, DeadlineExceeded, SidecarError
from sidecar.reuse.prepared import Prepared
from sidecar.reuse.relay import Baton, Relay

_LATE: Final = (
    "the deadline passed while the item waited for another call to prepare the same content; allow more time"
)


@dataclass(frozen=True, slots=True)
class FlightsStatistics:
    """Items under way that others could follow, and those that follow, now.

    Since the start: items that were given another's tensors, or problem; milliseconds of one core that this
    saved; items that had to take the lead because their leader had left.
    """

    under_way: int
    following: int
    shared_total: int
    saved_cpu_ms_total: float
    handed_on_total: int


@dataclass(frozen=True, slots=True)
class _Fault:
    """A problem of the bytes, and what the item with them was called."""

    problem: SidecarError
    label: str


class Lead:
    """The work is the caller's, who says what came of it. A `with` block around the work makes the next follower
    lead when nothing was said by its end.
    """

    def __init__(self, baton: Baton[Prepared | _Fault], label: str) -> None:
        self._baton = baton
        self._label = label

    def begin(self) -> None:
        """Says that the leader has its slots, and waits for nothing but its work from now on."""
        self._baton.begin()

    def land(self, prepared: Prepared) -> None:
        """Gives the tensors to all followers; the leader holds the lease until this returns, and its own part after.

        InternalError when the lease is over.
        """
        prepared.lease.retain()  # raises before any follower is given what there is no more
        self._baton.finish(prepared)
        prepared.lease.release()

    def fail(self, problem: SidecarError) -> None:
        """Gives a problem that decode, transform or pack had with the item to all followers, if the bytes are to
        blame for it; else the next of them leads.
        """
        if isinstance(problem, CallerError) and not isinstance(problem, DeadlineExceeded | CallCancelled):
            self._baton.finish(_Fault(problem.again(), self._label))
        else:
            self._baton.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._baton.leave()


class Flights:
    """Items that are being prepared, by a key that holds their address."""

    def __init__(self) -> None:
        self._relay: Relay[Hashable, Prepared | _Fault] = Relay(_LATE, self._give, _take_back)
        self._saved_cpu_ms_total = 0.0

    def try_lead(self, key: Hashable, label: str) -> Lead | None:
        """The lead, where nobody has it; `label` names the item in messages."""
        baton = self._relay.try_take(key)
        return None if baton is None else Lead(baton, label)

    async def join(self, key: Hashable, label: str, deadline: Deadline) -> Lead | Prepared:
        """The lead, at once where nobody has it; else what becomes of that item: the lead, or the tensors, whose
        lease is then the caller's to release. For callers who hold nothing of the arena while they wait.

        Raises the problem that the leader had with the bytes, told of `label`, and DeadlineExceeded.
        """
        outcome = await self._relay.join(key, deadline)
        return Lead(outcome, label) if isinstance(outcome, Baton) else _told(outcome, label)

    async def follow(self, key: Hashable, label: str, deadline: Deadline) -> Prepared | None:
        """The tensors of an item whose leader has begun; None where nobody has, or the leader leaves: then the
        caller goes on by itself. Raises as `join` does.
        """
        outcome = await self._relay.follow(key, deadline)
        return None if outcome is None else _told(outcome, label)

    def statistics(self) -> FlightsStatistics:
        """A snapshot for observers."""
        now = self._relay.statistics()
        return FlightsStatistics(
            now.under_way, now.waiting, now.given_total, self._saved_cpu_ms_total, now.handed_on_total
        )

    def _give(self, outcome: Prepared | _Fault) -> None:
        if isinstance(outcome, Prepared):
            outcome.lease.retain()
            self._saved_cpu_ms_total += outcome.cpu_ms

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Flights {now.under_way} under way, {now.following} following>"


def _take_back(outcome: Prepared | _Fault) -> None:
    if isinstance(outcome, Prepared):
        outcome.lease.release()


def _told(outcome: Prepared | _Fault, label: str) -> Prepared:
    """What a follower is given. Raises the leader's problem as the follower's own, whose item has another name."""
    if isinstance(outcome, Prepared):
        return outcome
    problem = outcome.problem
    raise type(problem)(problem.message.replace(outcome.label, label, 1), **problem.facts)
