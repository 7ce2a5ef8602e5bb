"""The words of admission: an item that wants a worker, and who says whether it may come in and when its turn is.

`Turns` is the seam between the decisions, which are pure and told the time (lanes.py; the benchmarks bring other
people's), and their effects, which are the gate's. Nothing here waits, and nothing looks at bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.media import Cost, Modality


class Priority(enum.IntEnum):
    """Whose work goes first among a tenant's own; the smaller, the sooner."""

    PROBE = 1
    INTERACTIVE = 2
    BATCH = 3


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, for which model, and until when: what the items of a call have in common.

    `tenant` is empty where callers are not told apart. `deadline_ns` is on the monotonic clock, None for none: by
    then an item must be prepared. `delivers`: the model server gets what is made of them.
    """

    modality: Modality
    model: str
    tenant: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline_ns: int | None = None
    delivers: bool = False


@dataclass(eq=False, slots=True)
class Work:
    """One item that wants a worker. The clock's readings are nanoseconds, 0 for not yet.

    `bytes` are those that it holds while it waits. `promised_s` is the wait that was foretold when it was let in;
    `passable`: it lacks room that items behind it may have already; `lane` is for `Turns` alone.
    """

    asker: Asker
    cost: Cost
    bytes: int = 0
    joined_ns: int = 0
    begun_ns: int = 0
    promised_s: float = 0.0
    passable: bool = False
    lane: object = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why items may not come in: `why` goes on from "the request" and names what is full, and how far.

    `retry_after_s` is when the same items can be let in, in seconds; None: never.
    """

    why: str
    retry_after_s: float | None


class Drop(enum.Enum):
    """Why an item is ended when its turn has come: LATE, it could not meet its deadline any more; STALE, it has
    waited much longer than was foretold, and others suffer for it.
    """

    LATE = "late"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether items may come in, and how long the last of them will take until its work is done, in seconds."""

    wait_s: float
    refusal: Refusal | None = None


class Turns(Protocol):
    """Who is let in, and whose turn is next. `now_ns` is the monotonic clock; it never goes back."""

    def resize(self, cores: int, express: int) -> None:
        """From now on there are so many cores, and slots for small items beside."""
        ...

    def full(self, asker: Asker, count: int, now_ns: int) -> Refusal | None:
        """Why there is no room for `count` more items of an asker, whatever they cost; None where there is."""
        ...

    def judge(self, works: Sequence[Work], now_ns: int) -> Verdict:
        """Whether the items of a call, all of one asker, may come in. Changes nothing."""
        ...

    def join(self, work: Work, now_ns: int) -> None:
        """Puts an item into the queue."""
        ...

    def leave(self, work: Work, now_ns: int) -> None:
        """Takes an item out that has not begun: its caller went away, or its time ran out."""
        ...

    def begin(self, now_ns: int, may: Callable[[Work], bool]) -> Work | None:
        """The item whose turn it is, out of the queue and under way; None where no one's may begin.

        `may` says of an item whether there is a slot, memory and upstream room for it now, and takes
        them: the first of whom it says so is begun. Items of one queue are tried in their order, up to the first
        that may not and is not `passable`.
        """
        ...

    def drop(self, work: Work, now_ns: int) -> Drop | None:
        """Why an item whose turn has come is not worth its work any more; None where it is."""
        ...

    def ended(self, work: Work, cpu_ms: float, now_ns: int) -> None:
        """Takes back an item that had begun, and took `cpu_ms` milliseconds of one core; 0 where it was dropped."""
        ...
