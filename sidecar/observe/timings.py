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

STAGES: Final = tuple(Stage)
"""In the path's order."""
PLACES: Final = {stage: place for place, stage in enumerate(STAGES)}
"""Where each stage is among them."""

# Of marks that a timeline keeps one by one, three each. A call has about ten marks; a stream of a thousand tokens
# would have thousands, and of those only the sums are kept.
_MOST_NUMBERS: Final = 3 * 32


@dataclass(frozen=True, slots=True)
class Timings:
    """What a timeline showed: nanoseconds a stage, those of no stage, and the whole."""

    stages: Mapping[Stage, int]
    total_ns: int

    @property
    def gap_ns(self) -> int:
        return self.total_ns - sum(self.stages.values())


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """Where the model's own time went, nanoseconds: in its queue, to the first token, and to the last; 0 where that is
    not known. It is within what `deliver` took.
    """

    queue_ns: int
    first_token_ns: int
    generation_ns: int


def _no_time() -> list[int]:
    return [0] * len(STAGES)


@dataclass(slots=True)
class Timeline:
    """Collects which stage was when, from `start_ns` on the monotonic clock.

    Numbers only, for the collector passes over them: `sums` has nanoseconds of all marks by stage, in STAGES' order;
    `flat` has the first marks one after the other, three numbers each: the stage's place in STAGES, its beginning, its
    end.
    """

    start_ns: int = field(default_factory=time.monotonic_ns)
    sums: list[int] = field(default_factory=_no_time)
    flat: list[int] = field(default_factory=list)

    @property
    def spent(self) -> dict[Stage, int]:
        """Nanoseconds by stage, of all marks; stages that took none are left out."""
        return {stage: spent for stage, spent in zip(STAGES, self.sums, strict=True) if spent}

    @property
    def marks(self) -> list[Mark]:
        """The first marks, in the order in which they ended."""
        flat = self.flat
        return [
            (STAGES[place], begun, ended)
            for place, begun, ended in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

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
        place = PLACES[stage]
        self.sums[place] += ended_ns - begun_ns
        if len(self.flat) < _MOST_NUMBERS:
            self.flat += (place, begun_ns, ended_ns)

    def include(self, marks: Iterable[Mark]) -> None:
        """Counts marks made elsewhere, such as in a worker, here too."""
        for stage, begun_ns, ended_ns in marks:
            self.add(stage, begun_ns, ended_ns)

    def snapshot(self) -> Timings:
        """Freezes what was seen so far; the total runs from the start to now."""
        return Timings(self.spent, time.monotonic_ns() - self.start_ns)
