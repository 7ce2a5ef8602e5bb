"""Was the accelerator waiting on us, and for which stage? Every instant of wall time in exactly one state.

An account holds what is known of one model of the model server: which calls were on their way to it, when each was
handed over and answered, and, where the server counts (Triton's statistics), how long it had them queued and
executed. From that the time line is laid anew, some hundred milliseconds late, when what was decisive is known:

    E executions running, U handed over and past every bound, Q accepted and not begun, H handed over and not
    accepted, P not handed over yet; the first of them that is there names the state.

    BUSY         E
    HUNG         U         the server has work and does nothing: never called starvation
    IDLE_BATCH   Q         a batch is waited for, or an instance
    IDLE_XFER    H         on the way to the server
    IDLE_PREP    P         starvation: charged to the stage of the request nearest completion
    IDLE_DEMAND  nothing   nobody asks

Nearest completion is known in hindsight: it is the request that was handed over next. Where it waited for a worker
that is `admit`; where its worker was kept off the cores by a quota, `throttled`.

It decides nothing, reads no clock and does no input or output; it is told the time. Times are nanoseconds of the
monotonic clock. Definitions: MLPerf Storage's accelerator utilisation, TensorFlow's input-pipeline analyser and
DS-Analyzer (VLDB'21); see docs/design.
"""

from __future__ import annotations

import enum
import math
import operator
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.media import Modality
from sidecar.observe.journal import Handover, Passage
from sidecar.observe.timings import Stage

# A server that has work is past its bound after this, or after so many times what nine and ninety of a hundred
# answers took (docs/design: the values of published watchdogs); one that never answered yet may still be loading.
_LEAST_BOUND_NS: Final = 1_000_000_000
_FIRST_BOUND_NS: Final = 10_000_000_000
_BOUND_FACTOR: Final = 5
_REMEMBERED: Final = 256
# Round trips of late: some ten seconds' worth.
_TRIPS: Final = 24
# By how much a front is late to hear of answers: 99 of 100 times less, with both cores full (docs/design); with a part
# of the time throttled, up to a period of the kernel's quotas.
_MOST_LATE_NS: Final = 20_000_000
_THROTTLED: Final = 0.02
_PERIOD_NS: Final = 100_000_000
# Later than any time; and what ranks of calls that were not handed over begin at, in the order of their completion.
_NEVER: Final = 1 << 62
_IN_WORK: Final = 1 << 60
_WAITS: Final = 1 << 61
_GAVE_UP: Final = _NEVER


class State(enum.Enum):
    """What the accelerator did, or waited for; an instant has one."""

    BUSY = "busy"
    HUNG = "hung"
    IDLE_BATCH = "idle_batch"
    IDLE_XFER = "idle_xfer"
    IDLE_PREP = "idle_prep"
    IDLE_DEMAND = "idle_demand"

    __hash__ = object.__hash__


class Cause(enum.Enum):
    """What starved time is charged to: a stage, by its own word, or a quota."""

    RECEIVE = "receive"
    PROBE = "probe"
    ADMIT = "admit"
    THROTTLED = "throttled"
    DECODE = "decode"
    TRANSFORM = "transform"
    PACK = "pack"
    DELIVER = "deliver"

    __hash__ = object.__hash__


_CAUSES: Final[Mapping[Stage, Cause]] = {
    stage: Cause(stage.value) for stage in Stage if stage is not Stage.RESPOND
}
# A pause before a stage is that stage's, but before decode it is the wait for a worker to take the job up.
_PAUSES: Final[Mapping[Stage, Cause]] = {**_CAUSES, Stage.DECODE: Cause.ADMIT}
_WORKED: Final = frozenset({Cause.DECODE, Cause.TRANSFORM, Cause.PACK})

_STATES: Final = (
    State.BUSY,
    State.HUNG,
    State.IDLE_BATCH,
    State.IDLE_XFER,
    State.IDLE_PREP,
    State.IDLE_DEMAND,
)
_PREP: Final = _STATES.index(State.IDLE_PREP)
# A field of twelve bits for each of E, U, Q, H and P, E's the highest: up to 4,095 of each at once.
_FIELDS: Final = np.array([1 << 12 * place for place in reversed(range(len(_STATES) - 1))], np.int64)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a model server counted of a model until now, over all its callers: requests and rows answered, executions,
    and nanoseconds summed over requests. `batches`: of each batch size, executions and the nanoseconds they took.

    `at_ns` and `rtt_ns`: when this was told, and how long the question was on its way.
    """

    at_ns: int
    rtt_ns: int
    requests: int
    rows: int
    executions: int
    queue_ns: int
    compute_ns: int
    output_ns: int
    batches: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Booked:
    """What an interval was: nanoseconds by state, and those of IDLE_PREP by cause and modality.

    `fill_ns`: the part of BUSY that rows, still being prepared, would have filled (partial starvation).
    `rows`, `executions`: what the accelerator worked off, as far as it was ours.
    """

    begun_ns: int
    ended_ns: int
    states: Counter[State] = field(default_factory=Counter)
    starved: Counter[tuple[Cause, Modality | None]] = field(default_factory=Counter)
    fill_ns: float = 0.0
    rows: int = 0
    executions: int = 0

    @property
    def span_ns(self) -> int:
        return self.ended_ns - self.begun_ns

    def add(self, other: Booked) -> None:
        """Counts a later interval to this one."""
        self.ended_ns = max(self.ended_ns, other.ended_ns)
        self.states.update(other.states)
        self.starved.update(other.starved)
        self.fill_ns += other.fill_ns
        self.rows += other.rows
        self.executions += other.executions


def summed(parts: Sequence[Booked]) -> Booked:
    """Intervals that follow one another as one; there must be one at least."""
    whole = Booked(parts[0].begun_ns, parts[0].begun_ns)
    for part in parts:
        whole.add(part)
    return whole


@dataclass(frozen=True, slots=True)
class Pace:
    """What answers lately were made of, nanoseconds: the way there, an execution, its output, the way back.

    `extra_ns`: how much longer than a small call every one was on its way, as tensors over a network are.
    """

    there_ns: int = 0
    execution_ns: int = 0
    output_ns: int = 0
    back_ns: int = 0
    extra_ns: int = 0


class Account:
    """The account of one model at the model server. `target_rows` is the batch that it takes at most, 0 for none;
    `instances` how many batches it runs at once.

    Time is settled once and for good up to `settled_ns`, and foreseen from there on. What is known of calls that ended
    lies in columns, so that a turn costs little more for hundreds of them than for one.
    """

    def __init__(self, begun_ns: int, target_rows: int = 0, instances: int = 1) -> None:
        self.target_rows = target_rows
        self.instances = instances
        self.settled_ns = begun_ns
        self._passages: list[Passage] = []
        self._calls = np.empty((0, len(_Calls)), np.int64)
        self._runs = np.empty((0, len(_Runs)), np.int64)
        self._counted: Counters | None = None
        self._pace = Pace()
        self._progress_ns = begun_ns
        self._took: deque[int] = deque(maxlen=_REMEMBERED)
        self._rtts: deque[int] = deque(maxlen=_TRIPS)
        self._free_ns = begun_ns
        self._executed: list[tuple[int, int, int]] = []

    @property
    def counts(self) -> bool:
        """Whether the server counts, so that queue, execution and transport can be told apart."""
        return self._counted is not None

    @property
    def pace(self) -> Pace:
        """What answers were made of by the server's last counters; nothing before the first of them."""
        return self._pace

    def enter(self, ended: Sequence[Passage]) -> None:
        """Takes in calls that ended, each once."""
        if not ended:
            return
        calls, runs = [], []
        for passage in ended:
            handovers = passage.handovers
            handed = handovers[0].handed_ns if handovers else 0
            calls.append(
                (passage.timeline.start_ns, handed or passage.ended_ns, handed or _GAVE_UP, passage.ended_ns)
            )
            runs += [_row(handover) for handover in handovers]
        self._passages += ended
        self._calls = np.concatenate([self._calls, np.array(calls, np.int64)])
        if runs:
            self._runs = np.concatenate([self._runs, np.array(runs, np.int64)])

    def wants_counters(self, under_way: Sequence[Passage]) -> bool:
        """Whether something was handed over that the last counters do not cover."""
        unplaced = self._runs.size and not self._runs[:, _Runs.PLACED].all()
        return bool(unplaced) or any(passage.handovers for passage in under_way)

    def count(self, counters: Counters, throttled: float = 0.0) -> None:
        """Lays out what was answered since the last counters, by how these have grown; `throttled` is the part of
        the time since then that a quota took, 0 to 1.
        """
        before, self._counted = self._counted, counters
        self._rtts.append(counters.rtt_ns)
        runs = self._runs
        fresh = np.flatnonzero((runs[:, _Runs.PLACED] == 0) & (runs[:, _Runs.ANSWERED] <= counters.at_ns))
        self._took.extend((runs[fresh, _Runs.ANSWERED] - runs[fresh, _Runs.HANDED])[-_REMEMBERED:].tolist())
        if before is None or counters.executions < before.executions:
            return  # the first look, or a server that was restarted: there is nothing to compare with
        if counters.executions > before.executions:
            self._progress_ns = max(self._progress_ns, counters.at_ns - counters.rtt_ns)
        fresh = fresh[runs[fresh, _Runs.KIND] == _PLAIN]
        if fresh.size and counters.requests > before.requests:
            free_ns = self._free_ns if self.instances == 1 else 0
            runs[fresh], executed, self._pace = place(
                runs[fresh], before, counters, trip(self._rtts, self._pace.extra_ns, throttled), free_ns
            )
            self._executed += executed
            self._free_ns = executed[-1][1]

    def bound_ns(self) -> int:
        """How long the server may have work and give no sign of life before it hangs."""
        if not self._took:
            return _FIRST_BOUND_NS
        high = sorted(self._took)[int(0.99 * (len(self._took) - 1))]
        return max(_LEAST_BOUND_NS, _BOUND_FACTOR * high)

    def ceiling(self, booked: Booked) -> float:
        """Rows a second that the accelerator could work off; 0 where that is not known.

        By what executions of each batch size took since the server's start, a line through them (an execution and so
        much a row), at the largest batch; with one size only, by what it did while it was busy.
        """
        batches = dict(self._counted.batches) if self._counted is not None else {}
        sizes = [(rows, spent / count, count) for rows, (count, spent) in batches.items() if count and rows]
        if len(sizes) > 1 and self.target_rows:
            rows, took, weights = (np.array(column, float) for column in zip(*sizes, strict=True))
            slope, base = np.polyfit(rows, took, 1, w=np.sqrt(weights))
            largest = base + slope * self.target_rows
            if slope > 0 and largest > 0:
                return float(self.target_rows / largest * 1e9 * self.instances)
        busy = booked.states[State.BUSY]
        return booked.rows / busy * 1e9 if busy else 0.0

    def settle(
        self, until_ns: int, now_ns: int, under_way: Sequence[Passage] = (), throttled: float = 0.0
    ) -> tuple[Booked, Booked]:
        """Books all time up to `until_ns` for good, and says what the time from there to `now_ns` looks like.

        `under_way` are the calls that have not ended; `throttled` is the part of the time that a quota took, 0 to 1.
        What starved time is charged to is told once it is settled.
        """
        until_ns = max(until_ns, self.settled_ns)
        settled, foreseen = Booked(self.settled_ns, until_ns), Booked(until_ns, max(now_ns, until_ns))
        if self._passages or under_way:
            self._book(settled, foreseen, now_ns, under_way, throttled)
            self._forget(until_ns)
        else:
            settled.states[State.IDLE_DEMAND] = settled.span_ns
            foreseen.states[State.IDLE_DEMAND] = foreseen.span_ns
        self.settled_ns = until_ns
        return settled, foreseen

    def _book(
        self, settled: Booked, foreseen: Booked, now_ns: int, under_way: Sequence[Passage], throttled: float
    ) -> None:
        calls, open_runs = self._calls, [_row(each) for one in under_way for each in one.handovers]
        runs = self._runs
        if under_way:
            calls = np.concatenate([calls, np.array([_open(one) for one in under_way], np.int64)])
        if open_runs:
            runs = np.concatenate([runs, np.array(open_runs, np.int64)])
        hung_ns = self._hung_ns(runs, under_way, now_ns)
        _guess(runs, self._pace, hung_ns)
        hung = np.array([[hung_ns, now_ns]] if hung_ns < now_ns else [], np.int64).reshape(-1, 2)
        lines = (
            (runs[:, _Runs.BEGUN], runs[:, _Runs.ENDED]),
            (hung[:, 0], hung[:, 1]),
            (runs[:, _Runs.THERE], runs[:, _Runs.BEGUN]),
            (runs[:, _Runs.HANDED], runs[:, _Runs.THERE]),
            (calls[:, _Calls.BEGUN], calls[:, _Calls.PREPARED]),
        )
        cuts, states, preparing = _segments(lines, settled.begun_ns, settled.ended_ns, foreseen.ended_ns)
        lengths = np.diff(cuts)
        split = int(np.searchsorted(cuts, settled.ended_ns))
        for booked, part in ((settled, slice(0, split)), (foreseen, slice(split, None))):
            for state, spent in zip(
                _STATES, np.bincount(states[part], lengths[part], len(_STATES)), strict=True
            ):
                if spent:
                    booked.states[state] = int(spent)
        starved = np.flatnonzero(states[:split] == _PREP)
        if starved.size:
            self._charge(calls, under_way, cuts[starved], cuts[starved + 1], settled, throttled)
        self._fill(settled, cuts, preparing)

    def _hung_ns(self, runs: npt.NDArray[np.int64], under_way: Sequence[Passage], now_ns: int) -> int:
        """Since when the server is past its bound; `now_ns` where it is not."""
        waiting = runs[runs[:, _Runs.ANSWERED] == 0, _Runs.HANDED]
        if not waiting.size:
            return now_ns
        signs = [each.last_ns for one in under_way for each in one.handovers]
        answered = int(runs[:, _Runs.ANSWERED].max())
        return max(self._progress_ns, int(waiting.min()), answered, *signs) + self.bound_ns()

    def _charge(  # noqa: PLR0917 - a segment's columns, and what they are charged by
        self,
        calls: npt.NDArray[np.int64],
        under_way: Sequence[Passage],
        begun: npt.NDArray[np.int64],
        ended: npt.NDArray[np.int64],
        booked: Booked,
        throttled: float,
    ) -> None:
        """Charges starved segments to the calls that completed next, and to what these were at."""
        order = np.argsort(calls[:, _Calls.RANK], kind="stable")
        order = order[calls[order, _Calls.PREPARED] > begun[0]]
        waiting = calls[order]
        was_there = (waiting[:, _Calls.BEGUN] <= begun[:, None]) & (
            waiting[:, _Calls.PREPARED] >= ended[:, None]
        )
        next_ = order[np.argmax(was_there, axis=1)].tolist()
        passages = [*self._passages, *under_way]
        at = 0
        for place_ in range(1, len(next_) + 1):
            # Segments that follow one another and wait for the same call are charged together.
            if place_ < len(next_) and next_[place_] == next_[at] and begun[place_] == ended[place_ - 1]:
                continue
            _charge_to(passages[next_[at]], int(begun[at]), int(ended[place_ - 1]), booked, throttled)
            at = place_

    def _fill(self, booked: Booked, cuts: npt.NDArray[np.int64], preparing: npt.NDArray[np.int64]) -> None:
        """Counts executions, and what those with room left could have taken of what was being prepared."""
        done = [each for each in self._executed if each[0] < booked.ended_ns]
        self._executed = [each for each in self._executed if each[0] >= booked.ended_ns]
        if not done:
            return
        begun, ended, rows = np.array(done, np.int64).T
        booked.executions += len(done)
        booked.rows += int(rows.sum())
        if self.target_rows and cuts.size > 1:
            behind = preparing[np.clip(np.searchsorted(cuts, begun, "right") - 1, 0, len(preparing) - 1)]
            missing = np.minimum(np.maximum(0, self.target_rows - rows), behind)
            booked.fill_ns += float(((ended - begun) * missing).sum() / self.target_rows)

    def _forget(self, until_ns: int) -> None:
        """Drops what is over before `until_ns`."""
        over = int(np.searchsorted(self._calls[:, _Calls.ENDED], until_ns, "right"))
        if over:  # calls are entered in the order in which they ended
            del self._passages[:over]
            self._calls = self._calls[over:]
        runs = self._runs
        last = np.where(runs[:, _Runs.PLACED] > 0, runs[:, _Runs.ENDED], runs[:, _Runs.ANSWERED])
        self._runs = runs[last > until_ns]


class _Calls(enum.IntEnum):
    """Columns of a call: its arrival, when it ceased to be in preprocessing, its rank by completion, its end."""

    BEGUN = 0
    PREPARED = 1
    RANK = 2
    ENDED = 3


class _Runs(enum.IntEnum):
    """Columns of rows handed over: when, and when answered (0: not yet); how many; of what kind; the way there until
    THERE, then the queue until BEGUN, then executed until ENDED; whether the server's own counters say so.
    """

    HANDED = 0
    ANSWERED = 1
    ROWS = 2
    KIND = 3
    THERE = 4
    BEGUN = 5
    ENDED = 6
    PLACED = 7


_PLAIN, _FAILED, _STREAMED = 0, 1, 2


def _row(handover: Handover) -> tuple[int, ...]:
    kind = _FAILED if handover.failed else _STREAMED if handover.streamed else _PLAIN
    return handover.handed_ns, handover.answered_ns, handover.rows, kind, 0, 0, 0, 0


def _open(passage: Passage) -> tuple[int, int, int, int]:
    """The columns of a call under way; of those not handed over who is in work comes before who waits."""
    begun = passage.timeline.start_ns
    if passage.handovers:
        handed = passage.handovers[0].handed_ns
        return begun, handed, handed, _NEVER
    worked = [item.begun_ns for item in passage.items if item.begun_ns]
    # Ranks stay in order as long as clocks run: nanoseconds of a century fit between the two.
    return begun, _NEVER, (_IN_WORK + min(worked) if worked else _WAITS + begun), _NEVER


def _guess(runs: npt.NDArray[np.int64], pace: Pace, hung_ns: int) -> None:
    """Lays out runs that no counters cover by what answers took lately: in place. One without an answer is being
    executed until it hangs; a failed one was on its way all the time.
    """
    rows = np.flatnonzero(runs[:, _Runs.PLACED] == 0)
    if not rows.size:
        return
    handed, answered, kind = (runs[rows, column] for column in (_Runs.HANDED, _Runs.ANSWERED, _Runs.KIND))
    failed, plain = (kind == _FAILED) & (answered > 0), (kind == _PLAIN) & (answered > 0)
    ended = np.where(answered > 0, answered - pace.back_ns - np.where(plain, pace.output_ns, 0), hung_ns)
    ended = np.where(failed, answered, np.maximum(handed, ended))
    begun = handed + pace.there_ns
    if pace.execution_ns:
        begun = np.where(plain, np.maximum(begun, ended - pace.execution_ns), begun)
    begun = np.where(failed, answered, np.minimum(begun, ended))
    runs[rows, _Runs.THERE] = np.where(failed, answered, np.minimum(begun, handed + pace.there_ns))
    runs[rows, _Runs.BEGUN], runs[rows, _Runs.ENDED] = begun, ended


def _segments(
    lines: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]], *bounds: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the state may change, the bounds among them; the state's place in _STATES between, and how many calls are
    in preprocessing. `lines` are starts and ends of E, U, Q, H and P.

    How many intervals of each line are open is counted in one sum, a field of bits a line: the highest field that is
    not empty names the state.
    """
    opened = np.repeat(_FIELDS, [start.size for start, _ in lines])
    points = np.concatenate([np.array(bounds), *(start for start, _ in lines), *(end for _, end in lines)])
    np.clip(points, bounds[0], bounds[-1], out=points)
    changes = np.concatenate([np.zeros(len(bounds), np.int64), opened, -opened])
    order = np.argsort(points, kind="stable")  # of equal moments, what opens comes before what closes
    cuts, open_ = points[order], np.cumsum(changes[order])[:-1]
    states = len(lines) - np.searchsorted(_FIELDS[::-1], open_, "right")
    return cuts, states, open_ & (_FIELDS[-2] - 1)


def steps(passage: Passage) -> list[tuple[int, Cause]]:
    """Until when a call was in which stage, one after the other, the last until it was prepared."""
    marks = list(passage.timeline.marks)
    if not passage.handovers and not passage.ended_ns and passage.items:
        # Not prepared yet: its own timeline has its items' marks only at the end.
        furthest = max(passage.items, key=lambda item: (item.begun_ns > 0, len(item.timeline.marks)))
        marks += furthest.timeline.marks
    found: list[tuple[int, Cause]] = []
    at = passage.timeline.start_ns
    for stage, begun, ended in sorted(marks, key=_BEGINS):
        if ended <= at or stage not in _CAUSES:
            continue
        if begun > at:
            found.append((begun, _PAUSES[stage]))
        found.append((ended, _CAUSES[stage]))
        at = ended
    found.append((_NEVER, _last(passage, found)))
    return found


_BEGINS: Final = operator.itemgetter(1)


def _last(passage: Passage, found: Sequence[tuple[int, Cause]]) -> Cause:
    """What a call is at after its last mark. Of what a worker is at nothing is known before it reports, and most of the
    time, and first, it decodes.
    """
    if passage.handovers or (found and found[-1][1] is Cause.PACK):
        return Cause.DELIVER
    if any(item.begun_ns for item in passage.items):
        return Cause.DECODE
    if not found:
        return Cause.RECEIVE
    return Cause.ADMIT if passage.items else Cause.PROBE


def off_core(passage: Passage) -> float:
    """Which part of its workers' time they were off the cores, 0 to 1; 0 where it is not known."""
    worked = sum(
        ended - begun
        for item in passage.items
        for stage, begun, ended in item.timeline.marks
        if _CAUSES.get(stage) in _WORKED
    )
    cpu_ns = sum(item.cpu_ms for item in passage.items) * 1e6
    return max(0.0, 1 - cpu_ns / worked) if worked and cpu_ns else 0.0


def _charge_to(passage: Passage, begun_ns: int, ended_ns: int, booked: Booked, throttled: float) -> None:
    found, modality = steps(passage), passage.modality
    number, at, worked = bisect_right(found, begun_ns, key=operator.itemgetter(0)), begun_ns, 0
    while at < ended_ns:
        until, cause = found[number]
        nanoseconds = min(until, ended_ns) - at
        at, number = until, number + 1
        if cause in _WORKED:
            worked += nanoseconds
            continue
        if throttled and cause is not Cause.RECEIVE:
            booked.starved[Cause.THROTTLED, modality] += int(throttled * nanoseconds)
            nanoseconds -= int(throttled * nanoseconds)
        booked.starved[cause, modality] += nanoseconds
    if worked:
        _spread(passage, worked, booked, throttled)


def _spread(passage: Passage, worked_ns: int, booked: Booked, throttled: float) -> None:
    """Charges time in a worker to all that its worker did, by how long each took: one thread does it back to back, so
    whichever was longest is what it is late for, and not the one that happened to come last.
    """
    parts: Counter[Cause] = Counter()
    for stage, begun, ended in passage.timeline.marks:
        if (cause := _CAUSES.get(stage)) in _WORKED:
            parts[cause] += ended - begun
    if throttled:
        lost = int(min(throttled, off_core(passage)) * worked_ns)
        booked.starved[Cause.THROTTLED, passage.modality] += lost
        worked_ns -= lost
    # Of what has not reported nothing is known, and most of the time, and first, it decodes.
    whole = sum(parts.values())
    if not whole:
        booked.starved[Cause.DECODE, passage.modality] += worked_ns
        return
    left = worked_ns
    for cause, spent in parts.most_common()[1:]:
        booked.starved[cause, passage.modality] += worked_ns * spent // whole
        left -= worked_ns * spent // whole
    booked.starved[parts.most_common(1)[0][0], passage.modality] += left


def place(
    runs: npt.NDArray[np.int64], before: Counters, after: Counters, trip: Trip, free_ns: int
) -> tuple[npt.NDArray[np.int64], list[tuple[int, int, int]], Pace]:
    """Lays out runs that were answered between two readings of the server's counters; gives also the executions
    (begun, ended, rows), and what the answers were made of.

    The server tells sums over requests, and how many executions there were, each batch size's time apart. Answers of
    one execution come together, so the answers are cut at their widest gaps into as many groups as executions. Each
    execution is taken to begin as soon as it could, when its rows were there and the one before had ended (`free_ns`
    is when the last of an earlier reading had; 0 where several run at once). If its answer came later than that
    explains, the front was late to hear of it, as far as a front can be; the rest was before the execution: the queue,
    as long as the server counted, and the way there. What all answers have in common is the way there too: `Pace` has
    it for the next reading.
    """
    runs = runs[np.argsort(runs[:, _Runs.ANSWERED], kind="stable")]
    handed, answered = runs[:, _Runs.HANDED], runs[:, _Runs.ANSWERED]
    requests = after.requests - before.requests
    output = (after.output_ns - before.output_ns) // requests
    mean = (after.compute_ns - before.compute_ns) // requests
    queue = (after.queue_ns - before.queue_ns) / requests
    groups = _groups(answered, after.executions - before.executions)
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    rows = np.add.reduceat(runs[:, _Runs.ROWS], firsts)
    took = _took(rows, before, after, mean)
    ready = (np.maximum.reduceat(handed, firsts) + trip.there_ns).tolist()
    told = (answered[firsts] - output).tolist()
    ends, is_serial, least_ns = [], free_ns > 0, _NEVER
    for ready_ns, told_ns, took_ns in zip(ready, told, took.tolist(), strict=True):
        late_ns = told_ns - max(ready_ns, free_ns) - took_ns
        least_ns = min(least_ns, late_ns)
        free_ns = told_ns - min(max(late_ns, trip.back_ns), trip.most_back_ns)
        ends.append(free_ns)
        free_ns *= is_serial
    # A part of a batch that was answered so soon cannot have waited for more.
    ended = np.maximum(handed, np.array(ends, np.int64)[groups])
    begun = np.maximum(handed, ended - took[groups])
    there = max(0, int(float((begun - handed).mean()) - queue))
    runs[:, _Runs.BEGUN], runs[:, _Runs.ENDED] = begun, ended
    runs[:, _Runs.THERE] = np.minimum(begun, handed + there)
    runs[:, _Runs.PLACED] = 1
    executed = zip(begun[firsts].tolist(), ended[firsts].tolist(), rows.tolist(), strict=True)
    extra = max(0, trip.extra_ns + least_ns - trip.back_ns)
    return runs, list(executed), Pace(there, mean, output, trip.back_ns, extra)


@dataclass(frozen=True, slots=True)
class Trip:
    """How long the way to the model server is, nanoseconds: there, of it what is beyond a small call's (`extra_ns`),
    back, and back at most with the front being late to hear of an answer.
    """

    there_ns: int
    extra_ns: int
    back_ns: int
    most_back_ns: int


def trip(rtts_ns: Sequence[int], extra_ns: int, throttled: float) -> Trip:
    """By round trips of late; there must be one at least. Until an execution begins, 0.8 of a usual one passes (by
    Triton's own trace: 0.7 to 0.75 ms beside round trips of 0.85 to 1.0); half of an undisturbed one is the way back.

    A busy front is late by some milliseconds, and one that a quota keeps from running by most of a quota's period.
    """
    ordered = sorted(rtts_ns)
    back = ordered[0] // 2
    most = _MOST_LATE_NS if throttled < _THROTTLED else _PERIOD_NS
    return Trip(int(0.8 * ordered[len(ordered) // 2]) + extra_ns, extra_ns, back, max(back, most))


def _groups(answered: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """To which of `count` groups each answer belongs, counted from 0: cut at the widest gaps between them."""
    groups = np.zeros(answered.size, np.int64)
    cuts = min(max(1, count), answered.size) - 1
    if cuts:
        gaps = np.diff(answered)
        groups[1 + np.argpartition(gaps, gaps.size - cuts)[gaps.size - cuts :]] = 1
    return np.cumsum(groups)


def _took(rows: npt.NDArray[np.int64], before: Counters, after: Counters, mean: int) -> npt.NDArray[np.int64]:
    """How long executions of so many rows took between two readings, on average; `mean` where there was none."""
    known: dict[int, int] = {}
    for size, (count, spent) in after.batches.items():
        count_before, spent_before = before.batches.get(size, (0, 0))
        if count > count_before:
            known[size] = (spent - spent_before) // (count - count_before)
    return np.array([known.get(size, mean) for size in rows.tolist()], np.int64)


def share(nanoseconds: float, of_ns: float) -> float:
    """A part of a whole, 0 to 1; 0 where there is no whole."""
    return min(1.0, nanoseconds / of_ns) if of_ns > 0 else 0.0


def utilisation(booked: Booked) -> float:
    """Accelerator utilisation as MLPerf Storage has it, for demand: BUSY by all time in which somebody asked.

    NaN where nobody did.
    """
    asked = booked.span_ns - booked.states[State.IDLE_DEMAND]
    return booked.states[State.BUSY] / asked if asked > 0 else math.nan
