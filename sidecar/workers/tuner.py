"""Whether other threads would do more: tried on the work itself, and kept only where the gain is beyond doubt.

    throttled         the kernel stops the container: fewer threads, at once
    items wait        a trial: the plan's own numbers first, then a thread more where cores are idle, or one less where
                      they are all busy and there are more threads than the plan would have
    nobody waits      nothing: whatever was tried would show no difference

A trial runs the present numbers (A) and others (B) in turn, ABBA and so on, and compares the work that was done, in
predicted CPU time: requests differ a hundred times in cost, and their number says nothing. Each pair of phases gives a
gain; a thread more is kept where the mean is at least 0.15 / N and three of its standard errors above nothing, one less
where the loss is less than 3 % by two. What was tried in vain is tried again after twice as long each time, from ten
seconds to five minutes, so that a steady load is left alone. The form is .NET's hill climbing without its wave, which
never ends, and Autothrottle's throttle ratio (NSDI'24) as the one signal that needs no trial; see docs/design.

Pure: told what happened and when; it says what to do, and never touches a plan.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Final

from sidecar.media import Modality

Numbers = Mapping[Modality, int]
"""Threads by modality."""

TICK_S: Final = 0.5
"""How often it is told what happened: five periods of the kernel's quotas."""
# Looks by which the state of things is judged, and by how many of them.
_LOOKS: Final = 4
_MOST_LOOKS: Final = 3
_THROTTLED: Final = 0.05
_UNTHROTTLED: Final = 0.01
# Where so much of the budget is used, a thread more would only wait (.NET's 95 %).
_FULL: Final = 0.95
_HOLD_NS: Final = 5_000_000_000
# Ticks of a phase; the first is left out, for work of the phase before ends in it.
_PHASE: Final = 3
# Pairs of phases by which a trial may end, and must.
_LEAST_PAIRS: Final = 3
_MOST_PAIRS: Final = 6
_SIGMAS: Final = 3.0
_GAIN: Final = 0.15
_LOSS: Final = 0.03
_FIRST_REST_NS: Final = 10_000_000_000
_LONGEST_REST_NS: Final = 300_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened since the last tick: work done, in milliseconds of predicted CPU time; the modalities of which
    items wait for a thread now; the part of the budget that was used, and of the time that a quota took, 0 to 1.
    """

    at_ns: int
    done_ms: float
    waiting: frozenset[Modality]
    busy: float
    throttled: float


class Kind(enum.Enum):
    """What a move is: a trial's switch, or a decision: to keep other numbers, or to go back to the old ones."""

    TRIAL = "tries"
    KEPT = "keeps"
    BACK = "goes back to"


@dataclass(frozen=True, slots=True)
class Move:
    """Numbers to go by from now on, and the evidence in words."""

    kind: Kind
    numbers: Numbers
    why: str


@dataclass(slots=True)
class _Trial:
    """Numbers beside others: `phases` are the work a tick of each phase so far, `ticks` those of the present one."""

    base: Numbers
    other: Numbers
    grows: bool
    needed: float
    phases: list[float] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    idle: int = 0

    @property
    def tries_other(self) -> bool:
        """Whether the present phase is B's: A, B, B, A, A, B, B, A."""
        return len(self.phases) % 4 in {1, 2}

    @property
    def gains(self) -> list[float]:
        """What B did beside A, less one, of each pair of phases that is whole."""
        pairs = [self.phases[at : at + 2] for at in range(0, len(self.phases) - 1, 2)]
        both = [
            (pair[0], pair[1]) if number % 2 == 0 else (pair[1], pair[0]) for number, pair in enumerate(pairs)
        ]
        return [b / a - 1 for a, b in both if a > 0]


class Tuner:
    """Decides for one server. `fits` says whether numbers can be at all, by memory and the settings' own bounds."""

    def __init__(self, fits: Callable[[Numbers], bool] = lambda _numbers: True) -> None:
        self._fits = fits
        self._looks: deque[Sample] = deque(maxlen=_LOOKS)
        self._trial: _Trial | None = None
        self._hold_ns = 0
        self._rests: dict[tuple[tuple[Modality, int], ...], tuple[int, int]] = {}

    def restart(self) -> None:
        """Forgets what was tried: the budget, or the plan, is another."""
        self._looks.clear()
        self._trial = None
        self._rests.clear()

    @property
    def is_trying(self) -> bool:
        """Whether a trial is under way."""
        return self._trial is not None

    def call_off(self, at_ns: int) -> Numbers | None:
        """Ends a trial that is not to be made, as if in vain; the numbers that it would have tried."""
        trial, self._trial = self._trial, None
        if trial is None:
            return None
        self._rest(trial.other, at_ns)
        return trial.other

    def tick(self, sample: Sample, present: Numbers, own: Numbers) -> Move | None:
        """What to do now; None for nothing. `present` are the numbers in force, `own` those of the plan by itself."""
        if self._trial is not None:
            return self._go_on(self._trial, sample)
        self._looks.append(sample)
        if len(self._looks) < _LOOKS or sample.at_ns < self._hold_ns:
            return None
        throttled = fmean(look.throttled for look in self._looks)
        if throttled > _THROTTLED and max(present.values()) > 1:
            return self._shrink(present, throttled, sample.at_ns)
        busy = fmean(look.busy for look in self._looks)
        hungry = [
            modality
            for modality in present
            if sum(modality in look.waiting for look in self._looks) >= _MOST_LOOKS
        ]
        if not hungry:
            return None
        for other in self._others(hungry, present, own, busy, throttled):
            _, until_ns = self._rests.get(_key(other), (0, 0))
            if sample.at_ns >= until_ns and self._fits(other):
                grows = sum(other.values()) > sum(present.values())
                needed = _GAIN / max(other.values()) if grows else -_LOSS
                self._trial = _Trial(dict(present), dict(other), grows, needed)
                self._looks.clear()
                return None
        return None

    @staticmethod
    def _others(
        hungry: list[Modality], present: Numbers, own: Numbers, busy: float, throttled: float
    ) -> Iterator[Numbers]:
        """What is worth a trial, the likeliest first."""
        if dict(present) != dict(own):
            yield own
        for modality in hungry:
            if busy < _FULL and throttled < _UNTHROTTLED:
                yield {**present, modality: present[modality] + 1}
        for modality, threads in present.items():
            if busy >= _FULL and threads > own.get(modality, 1):
                yield {**present, modality: threads - 1}

    def _shrink(self, present: Numbers, throttled: float, at_ns: int) -> Move:
        modality = max(present, key=present.__getitem__)
        fewer = max(1, math.ceil(present[modality] * throttled / 2))
        numbers = {**present, modality: max(1, present[modality] - fewer)}
        self._looks.clear()
        self._hold_ns = at_ns + _HOLD_NS
        # More threads were stopped by the quota; they are not tried again at once.
        self._rest(dict(present), at_ns)
        return Move(Kind.KEPT, numbers, f"a quota stopped the container {throttled:.0%} of the time")

    def _go_on(self, trial: _Trial, sample: Sample) -> Move | None:
        trial.ticks.append(sample.done_ms)
        trial.idle = 0 if sample.waiting else trial.idle + 1
        if trial.idle >= _LOOKS:
            return self._end(
                trial, sample.at_ns, keep=False, why="nobody waits any more, and nothing can be told"
            )
        if len(trial.ticks) < _PHASE:
            return None
        was_other = trial.tries_other
        trial.phases.append(fmean(trial.ticks[1:]))
        trial.ticks.clear()
        gains = trial.gains
        if len(trial.phases) % 2 == 0 and len(gains) >= _LEAST_PAIRS:
            verdict = _judged(gains, trial)
            if verdict is not None:
                return self._end(trial, sample.at_ns, keep=verdict, why=_words(gains))
        if trial.tries_other is was_other:
            return None
        numbers = trial.other if trial.tries_other else trial.base
        return Move(Kind.TRIAL, numbers, _words(gains) if gains else "items wait")

    def _end(self, trial: _Trial, at_ns: int, *, keep: bool, why: str) -> Move:
        self._trial = None
        self._looks.clear()
        if keep:
            self._rests.clear()
            self._rest(dict(trial.base), at_ns)
            return Move(Kind.KEPT, trial.other, why)
        self._rest(dict(trial.other), at_ns)
        return Move(Kind.BACK, trial.base, why)

    def _rest(self, numbers: Numbers, at_ns: int) -> None:
        before, _ = self._rests.get(_key(numbers), (0, 0))
        rest_ns = min(_LONGEST_REST_NS, 2 * before or _FIRST_REST_NS)
        self._rests[_key(numbers)] = (rest_ns, at_ns + rest_ns)


def _key(numbers: Numbers) -> tuple[tuple[Modality, int], ...]:
    return tuple((modality, numbers[modality]) for modality in Modality if modality in numbers)


def _judged(gains: list[float], trial: _Trial) -> bool | None:
    """Whether the trial's numbers are kept; None where that needs another pair."""
    mean, error = fmean(gains), stdev(gains) / math.sqrt(len(gains))
    last = len(gains) >= _MOST_PAIRS
    if trial.grows:
        if mean >= trial.needed and mean > _SIGMAS * error:
            return True
        return False if last or mean + 2 * error < trial.needed else None
    if mean - 2 * error > trial.needed:
        return True
    return False if last or mean + 2 * error < trial.needed else None


def _words(gains: list[float]) -> str:
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return f"{fmean(gains):+.1%} ± {error:.1%} work by {len(gains)} pairs"
