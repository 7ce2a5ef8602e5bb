"""From booked time to a verdict: what the accelerator waited for, how badly, and whether to ring a bell.

Pure; told the time. Levels are those of TensorFlow's input-pipeline analyser: below 5 % of the time starved is none,
from 20 % on severe. The bell rings within two seconds of an onset, never for a lack of demand, and never for an
accelerator that is simply busy.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.media import Modality
from sidecar.observe.starvation import Booked, Cause, State, share, utilisation

MODERATE: Final = 0.05
SEVERE: Final = 0.20
# Of the last half of a second; raised at the second look in a row, so that the first of many requests, which finds
# nothing else under way, rings no bell; lowered where less than half is left of it.
_RAISE: Final = 0.10
_LOWER: Final = 0.05
# Somebody must have asked for most of it: a lone request waits for its own preprocessing and for nothing else.
_ASKED: Final = 0.5
# Below this nobody asks, whatever else there is.
_NO_DEMAND: Final = 0.95
_MOSTLY_IDLE: Final = 0.5
# A server with a full queue is idle for moments between executions: 2 to 6 % of the time at 100 to 170 a second
# (docs/design). Waiting for a batch or an instance is more.
_BATCH: Final = 0.15


class Level(enum.Enum):
    """How much of the time was starved."""

    NONE = "none"
    MODERATE = "moderate"
    SEVERE = "severe"


class Finding(enum.Enum):
    """What limits the accelerator's work."""

    NO_DEMAND = "no_demand"
    ACCELERATOR = "accelerator"
    STARVED = "starved"
    TRANSPORT = "transport"
    BATCH = "batch"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one model at the model server, over a window. `cause` and `modality` say what starved it most, None where
    it is not starved; `alarm` whether the bell rings, `since_ns` since when, 0 for not.

    Shares are parts of the window, 0 to 1: `starved`, `fill` (partial starvation), `busy`. `utilisation` is BUSY by
    the time in which somebody asked; NaN where nobody did.
    """

    upstream: str
    booked: Booked
    finding: Finding
    level: Level
    starved: float
    fill: float
    busy: float
    utilisation: float
    cause: Cause | None
    modality: Modality | None
    alarm: bool
    since_ns: int

    @property
    def words(self) -> str:
        """The verdict as a sentence."""
        return _WORDS[self.finding].format(
            upstream=self.upstream,
            starved=self.starved,
            busy=self.busy,
            cause=_WHAT[self.cause] if self.cause else "preprocessing",
            what=f" {self.modality.value}" if self.modality else "",
            batch=share(self.booked.states[State.IDLE_BATCH], self.booked.span_ns),
            transport=share(self.booked.states[State.IDLE_XFER], self.booked.span_ns),
        )


_WORDS: Final[Mapping[Finding, str]] = {
    Finding.NO_DEMAND: "{upstream}: nobody asks enough of it; it is busy {busy:.0%} of the time and waits for nobody.",
    Finding.ACCELERATOR: "{upstream}: the accelerator is the limit, busy {busy:.0%} of the time.",
    Finding.STARVED: "{upstream}: starved {starved:.0%} of the time, mostly by{what} {cause}.",
    Finding.TRANSPORT: "{upstream}: waits {transport:.0%} of the time for tensors on their way to it (deliver).",
    Finding.BATCH: "{upstream}: idle {batch:.0%} of the time with work queued: it waits for a batch or an instance.",
    Finding.HUNG: "{upstream}: has work and gives no sign of life: it hangs.",
}
_WHAT: Final[Mapping[Cause, str]] = {
    Cause.RECEIVE: "receive (callers send slowly)",
    Cause.PROBE: "probe (reading headers)",
    Cause.ADMIT: "admit (waiting for a worker)",
    Cause.THROTTLED: "throttled workers (a CPU quota)",
    Cause.DECODE: "decode",
    Cause.TRANSFORM: "transform",
    Cause.PACK: "pack",
    Cause.DELIVER: "deliver (the front is late)",
}


@dataclass(slots=True)
class Bell:
    """Rings for one model. `since_ns`: since when, 0 while it does not."""

    since_ns: int = 0
    _before: bool = False

    @property
    def listens(self) -> bool:
        """Whether the next look decides."""
        return self._before and not self.since_ns

    @property
    def rests(self) -> bool:
        """Whether it does not ring, and nothing points to its beginning to."""
        return not self._before and not self.since_ns

    def look(self, latest: Booked, now_ns: int) -> bool:
        """Takes a look at the last half of a second; whether the bell rings now."""
        span = latest.span_ns
        waits = _waits(latest)
        asked = share(span - latest.states[State.IDLE_DEMAND], span) >= _ASKED
        hung = latest.states[State.HUNG] > 0
        high = hung or (asked and share(waits, span) >= _RAISE)
        if self.since_ns:
            if not high and share(waits, span) < _LOWER:
                self.since_ns = 0
        elif hung or (high and self._before):
            self.since_ns = now_ns
        self._before = high
        return self.since_ns > 0


def _waits(booked: Booked) -> int:
    """What the accelerator waited for us: for preprocessing, and for tensors on their way."""
    return booked.states[State.IDLE_PREP] + booked.states[State.IDLE_XFER]


def judge(upstream: str, window: Booked, latest: Booked, bell: Bell) -> Verdict:
    """The verdict over `window`; what hangs is told by the latest part of it."""
    span = window.span_ns
    starved = share(window.states[State.IDLE_PREP], span)
    by_cause: Counter[Cause] = Counter()
    for (cause, _), nanoseconds in window.starved.items():
        by_cause[cause] += nanoseconds
    most = by_cause.most_common(1)[0][0] if by_cause else None
    kinds = Counter({kind: spent for (of, kind), spent in window.starved.items() if of is most})
    finding = _finding(window, latest)
    is_starved = finding is Finding.STARVED
    return Verdict(
        upstream=upstream,
        booked=window,
        finding=finding,
        level=Level.SEVERE if starved >= SEVERE else Level.MODERATE if starved >= MODERATE else Level.NONE,
        starved=starved,
        fill=share(window.fill_ns, window.settled_ns),
        busy=share(window.states[State.BUSY], span),
        utilisation=utilisation(window),
        cause=most if is_starved else None,
        modality=kinds.most_common(1)[0][0] if is_starved and kinds else None,
        alarm=bell.since_ns > 0,
        since_ns=bell.since_ns,
    )


def _finding(window: Booked, latest: Booked) -> Finding:
    span = window.span_ns
    if not span:
        return Finding.NO_DEMAND  # it has just begun
    if latest.states[State.HUNG]:
        return Finding.HUNG
    if share(window.states[State.IDLE_DEMAND], span) >= _NO_DEMAND:
        return Finding.NO_DEMAND
    waits = {
        Finding.STARVED: window.states[State.IDLE_PREP],
        Finding.TRANSPORT: window.states[State.IDLE_XFER],
        Finding.BATCH: window.states[State.IDLE_BATCH],
    }
    least = {**dict.fromkeys(waits, MODERATE), Finding.BATCH: _BATCH}
    if matter := {each: spent for each, spent in waits.items() if share(spent, span) >= least[each]}:
        return max(matter, key=matter.__getitem__)
    return (
        Finding.NO_DEMAND
        if share(window.states[State.IDLE_DEMAND], span) > _MOSTLY_IDLE
        else Finding.ACCELERATOR
    )
