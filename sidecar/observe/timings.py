"""A mark per stage; one snapshot feeds the reply, the metrics, the verdict, the trace and the log.

A timeline is a growing list of marks (a stage, when it began, when it ended) on the monotonic clock, which all
processes of a machine share. It never reads a result, never raises into the path, and costs about 0.3 µs a mark.
Its law: stages plus gap equal total, exactly, because the gap is what is left.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final


class Stage(enum.Enum):
    """The stations of the path, in its order. There is no second word for any of them."""

    RECEIVE = "receive"
    PROBE = "probe"
    ADMIT = "admit"
    DECODE = "decode"
    TRANSFORM = "transform"
    PACK = "pack"
    DELIVER = "deliver"
    RESPOND = "respond"

    # Members are themselves and nothing else is; Enum's own hash is Python, and a call takes some sixty.
    __hash__ = object.__hash__


Mark = tuple[Stage, int, int]
"""A stage, and the nanoseconds of the monotonic clock at which it began and ended."""

# Marks that a timeline keeps one by one. A call has about ten; a stream of a thousand tokens would have thousands,
# and of those only the sums are kept.
_MOST_MARKS: Final = 32


@dataclass(frozen=True, slots=True)
class Timings:
    """What a timeline showed: nanoseconds a stage, those of no stage, and the whole."""

    stages: Mapping[Stage, int]
    total_ns: int

    @property
    def gap_ns(self) -> int:
        return self.total_ns - sum(self.stages.values())


@dataclass(slots=True)
class Timeline:
    """Collects which stage was when, from `start_ns` on the monotonic clock.

    `spent` sums all marks, nanoseconds a stage; `marks` are the first of them, in the order in which they ended.
    """

    start_ns: int = field(default_factory=time.monotonic_ns)
    spent: dict[Stage, int] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Counts the time inside the `with` block to `stage`, also when it raises."""
        begun = time.monotonic_ns()
        try:
            yield
        finally:
            self.add(stage, begun, time.monotonic_ns())

    def add(self, stage: Stage, begun_ns: int, ended_ns: int) -> None:
        """Counts time measured elsewhere to `stage`."""
        self.spent[stage] = self.spent.get(stage, 0) + ended_ns - begun_ns
        if len(self.marks) < _MOST_MARKS:
            self.marks.append((stage, begun_ns, ended_ns))

    def include(self, marks: Iterable[Mark]) -> None:
        """Counts marks made elsewhere, such as in a worker, here too."""
        for stage, begun_ns, ended_ns in marks:
            self.add(stage, begun_ns, ended_ns)

    def snapshot(self) -> Timings:
        """Freezes what was seen so far; the total runs from the start to now."""
        return Timings(dict(self.spent), time.monotonic_ns() - self.start_ns)
