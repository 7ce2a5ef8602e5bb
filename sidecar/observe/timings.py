"""A mark per stage; one snapshot feeds the reply and the metrics.

A timeline is a growing list of (stage, nanoseconds) pairs on the monotonic clock. It never reads a
result, never raises into the path, and costs about 0.2 µs a mark. Its law: stages plus gap equal
total, exactly, because the gap is what is left.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


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
    """Collects how long each stage took, from `start_ns` on the monotonic clock."""

    start_ns: int = field(default_factory=time.monotonic_ns)
    spent: dict[Stage, int] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Counts the time inside the `with` block to `stage`, also when it raises."""
        begun = time.monotonic_ns()
        try:
            yield
        finally:
            self.add(stage, time.monotonic_ns() - begun)

    def add(self, stage: Stage, nanoseconds: int) -> None:
        """Counts time measured elsewhere, such as in a worker, to `stage`."""
        self.spent[stage] = self.spent.get(stage, 0) + nanoseconds

    def include(self, stages: Mapping[Stage, int]) -> None:
        """Counts all of another timeline's stages here too."""
        for stage, nanoseconds in stages.items():
            self.add(stage, nanoseconds)

    def snapshot(self) -> Timings:
        """Freezes what was seen so far; the total runs from the start to now."""
        return Timings(dict(self.spent), time.monotonic_ns() - self.start_ns)
