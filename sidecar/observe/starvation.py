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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median_low
from typing import Final

import numpy as np

from sidecar.media import Modality
from sidecar.observe.journal import Passage
from sidecar.observe.notes import (
    FAILED,
    MODALITIES,
    NEVER,
    NOTHING,
    PLAIN,
    Calls,
    Columns,
    Noted,
    Runs,
    at_last,
    run,
)
from sidecar.observe.timings import STAGES, Mark, Stage

# A server that has work is past its bound after this, or after so many times what nine of ten answers took
# (docs/design: the values of published watchdogs); one that never answered yet may still be loading.
_LEAST_BOUND_NS: Final = 1_000_000_000
_FIRST_BOUND_NS: Final = 10_000_000_000
_BOUND_FACTOR: Final = 5
_REMEMBERED: Final = 256
# Pieces of starved time that are charged one by one in a turn.
_MOST_CHARGED: Final = 32
_LATEST_NS: Final = 500_000_000
# Of a round trip, what the front needs to lay and send a request: by Triton's trace a request is read 0.55 ms after
# its hand-over began, and half a round trip of a small call is 0.3 ms of 0.75.
_OWN_PART: Final = 0.3
# Round trips that are remembered. Those of a front that a quota stops tell how long it was stopped, and not the way.
_TRIPS: Final = 24
# Batches are kept for as long as windows can be.
_KEPT_NS: Final = 60_000_000_000
# By how much a front is late to hear of answers: 99 of 100 times less, with both cores full (docs/design); with a part
# of the time throttled, up to a period of the kernel's quotas.
_MOST_LATE_NS: Final = 20_000_000
_THROTTLED: Final = 0.02
_PERIOD_NS: Final = 100_000_000
# What ranks of calls that were not handed over begin at, in the order of their completion; those who gave up come last.
_IN_WORK: Final = 1 << 60
_WAITS: Final = 1 << 61


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
# A field of bits for each of E, U, Q, H and P: 12 and 13 for what is handed over, one for the hang, and 24 for calls in
# preprocessing, whose number is their callers'. 63 in all.
_P_BITS: Final = 24
_P_MASK: Final = (1 << _P_BITS) - 1
_FIELDS: Final = np.array(
    [1 << shift for shift in (_P_BITS + 26, _P_BITS + 25, _P_BITS + 13, _P_BITS, 0)], np.int64
)


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
    `rows`, `executions`: what the accelerator worked off, as far as it was ours. `settled_ns`: for how much of the
    interval causes, fill, rows and executions are known.
    """

    begun_ns: int
    ended_ns: int
    states: Counter[State] = field(default_factory=Counter)
    starved: Counter[tuple[Cause, Modality | None]] = field(default_factory=Counter)
    fill_ns: float = 0.0
    rows: int = 0
    executions: int = 0
    settled_ns: int = 0

    @property
    def span_ns(self) -> int:
        return self.ended_ns - self.begun_ns

    @property
    def rows_per_s(self) -> float:
        """Rows a second, by what is settled; 0 where nothing is."""
        return self.rows / self.settled_ns * 1e9 if self.settled_ns else 0.0

    def add(self, other: Booked) -> None:
        """Counts a later interval to this one."""
        self.ended_ns = max(self.ended_ns, other.ended_ns)
        self.states.update(other.states)
        self.starved.update(other.starved)
        self.fill_ns += other.fill_ns
        self.rows += other.rows
        self.executions += other.executions
        self.settled_ns += other.settled_ns


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


@dataclass(frozen=True, slots=True)
class _Line:
    """A time line: where the state may change, its place in _STATES between, and how many calls are in preprocessing;
    the calls and hand-overs that it was laid from, those under way among them.
    """

    cuts: Columns
    states: Columns
    preparing: Columns
    calls: Columns
    runs: Columns


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
        self._calls, self._runs = NOTHING.calls, NOTHING.runs
        self._marks: list[list[int]] = []
        self._counted: Counters | None = None
        self._pace = Pace()
        self._progress_ns = begun_ns
        self._took: deque[int] = deque(maxlen=_REMEMBERED)
        self._rtts: deque[int] = deque(maxlen=_TRIPS)
        self._free_ns = begun_ns
        self._silent_ns = NEVER
        self._bound, self._is_learned = _FIRST_BOUND_NS, False
        self._batches: deque[tuple[int, Mapping[int, tuple[int, int]]]] = deque()
        self._executed: list[tuple[int, int, int]] = []

    @property
    def counts(self) -> bool:
        """Whether the server counts, so that queue, execution and transport can be told apart."""
        return self._counted is not None

    @property
    def rests(self) -> bool:
        """Whether no call has ended since what is settled."""
        return not self._marks

    def absorb(self, noted: Noted) -> None:
        """Takes in calls that ended since."""
        if not noted.calls.size:
            return
        self._calls = np.concatenate([self._calls, noted.calls])
        self._marks += noted.marks
        runs = noted.runs
        if not runs.size:
            return
        self._runs = np.concatenate([self._runs, runs])
        heard = runs[runs[:, Runs.KIND] != FAILED]
        if heard.size:
            answered = heard[:, Runs.ANSWERED]
            self._progress_ns = max(self._progress_ns, int(answered.max()))
            # What hung and was answered after all says little of what an answer takes.
            took = np.minimum(answered - heard[:, Runs.HANDED], self.bound_ns())
            self._took.extend(took[-_REMEMBERED:].tolist())
            self._is_learned = False

    def wants_counters(self, under_way: Sequence[Passage]) -> bool:
        """Whether something was handed over that the last counters do not cover."""
        unplaced = self._runs.size and not self._runs[:, Runs.PLACED].all()
        return bool(unplaced) or any(passage.handovers for passage in under_way)

    def count(self, counters: Counters, throttled: float = 0.0) -> None:
        """Lays out what was answered since the last counters, by how these have grown; `throttled` is the part of
        the time since then that a quota took, 0 to 1.
        """
        before, self._counted = self._counted, counters
        if throttled < _THROTTLED or not self._rtts:
            self._rtts.append(counters.rtt_ns)
        while self._batches and self._batches[0][0] < counters.at_ns - _KEPT_NS:
            self._batches.popleft()
        runs = self._runs
        fresh = np.flatnonzero((runs[:, Runs.PLACED] == 0) & (runs[:, Runs.ANSWERED] <= counters.at_ns))
        if before is None or counters.executions < before.executions:
            return  # the first look, or a server that was restarted: there is nothing to compare with
        if counters.executions > before.executions:
            self._batches.append((counters.at_ns, _grown(before, counters)))
            self._progress_ns = max(self._progress_ns, counters.at_ns - counters.rtt_ns)
        # What was answered before the counters that these are compared with is in both.
        since_ns = before.at_ns - before.rtt_ns
        fresh = fresh[(runs[fresh, Runs.KIND] == PLAIN) & (runs[fresh, Runs.ANSWERED] > since_ns)]
        if fresh.size and counters.requests > before.requests:
            free_ns = self._free_ns if self.instances == 1 else 0
            runs[fresh], executed, self._pace = place(
                runs[fresh], before, counters, trip(self._rtts, self._pace.extra_ns, throttled), free_ns
            )
            self._executed += executed
            self._free_ns = executed[-1][1]

    def bound_ns(self) -> int:
        """How long the server may have work and give no sign of life before it hangs."""
        if not self._is_learned and self._took:
            high = sorted(self._took)[int(0.9 * (len(self._took) - 1))]
            self._bound, self._is_learned = max(_LEAST_BOUND_NS, _BOUND_FACTOR * high), True
        return self._bound

    def ceiling(self, booked: Booked) -> float:
        """Rows a second that the accelerator could work off; 0 where that is not known.

        By what executions of each batch size took in the interval, a line through them (an execution, and so much a
        row), at the largest batch. Where all were of one size that is not the largest, nobody knows what a fuller one
        would take, and by this one the accelerator would seem far too slow. Without counters, or for a model that does
        not batch, by what it did while it was busy.
        """
        sizes: Counter[int] = Counter()
        took: Counter[int] = Counter()
        for at_ns, spell in self._batches:
            if at_ns > booked.begun_ns:
                for rows, (count, spent) in spell.items():
                    sizes[rows] += count
                    took[rows] += spent
        if self.target_rows > 1 and sizes and set(sizes) != {self.target_rows}:
            return self._at_target(sizes, took) if len(sizes) > 1 else 0.0
        busy = share(booked.states[State.BUSY], booked.span_ns)
        return booked.rows_per_s / busy if busy else 0.0

    def _at_target(self, sizes: Mapping[int, int], took: Mapping[int, int]) -> float:
        """Rows a second in batches of the largest size, by a line through executions of several sizes."""
        rows = np.array(list(sizes), float)
        weights = np.array(list(sizes.values()), float)
        each = np.array([took[size] for size in sizes]) / weights
        spread = rows - np.average(rows, weights=weights)
        a_row = max(0.0, float((weights * spread * each).sum() / (weights * spread**2).sum()))
        execution = float(np.average(each - a_row * rows, weights=weights)) + a_row * self.target_rows
        return self.target_rows / execution * 1e9 * self.instances if execution > 0 else 0.0

    def settle(
        self, until_ns: int, now_ns: int, under_way: Sequence[Passage] = (), throttled: float = 0.0
    ) -> tuple[Booked, Booked, Booked]:
        """Books all time up to `until_ns` for good, and says what the time from there to `now_ns` looks like, and the
        last half second of it.

        `under_way` are the calls that have not ended; `throttled` is the part of the time that a quota took, 0 to 1.
        What starved time is charged to is told once it is settled.
        """
        until_ns = max(until_ns, self.settled_ns)
        now_ns = max(now_ns, until_ns)
        bounds = (self.settled_ns, until_ns, max(until_ns, now_ns - _LATEST_NS), now_ns)
        settled, between, latest = (Booked(begun, ended) for begun, ended in pairwise(bounds))
        settled.settled_ns = settled.span_ns
        if self._calls.size or under_way:
            self._book(settled, (settled, between, latest), under_way, throttled)
            self._forget(until_ns)
        else:
            for part in (settled, between, latest):
                part.states[State.IDLE_DEMAND] = part.span_ns
        self.settled_ns = until_ns
        return settled, summed([between, latest]), latest

    def glance(self, now_ns: int, under_way: Sequence[Passage] = ()) -> Booked:
        """The last half second alone, as far as it can be foreseen; settles nothing."""
        latest = Booked(now_ns - _LATEST_NS, now_ns)
        since = int(np.searchsorted(self._calls[:, Calls.ENDED], latest.begun_ns, "right"))
        if since == len(self._calls) and not under_way:
            latest.states[State.IDLE_DEMAND] = latest.span_ns
            return latest
        runs = self._runs[self._runs[:, Runs.ANSWERED] > latest.begun_ns]
        self._lay((latest,), self._calls[since:], runs, under_way)
        return latest

    def _book(
        self, settled: Booked, parts: Sequence[Booked], under_way: Sequence[Passage], throttled: float
    ) -> None:
        line = self._lay(parts, self._calls, self._runs, under_way)
        end = int(np.searchsorted(line.cuts, settled.ended_ns))
        lengths = np.diff(line.cuts[: end + 1])
        starved = np.flatnonzero((line.states[:end] == _PREP) & (lengths > 0))
        if starved.size:
            pieces = line.cuts[starved], line.cuts[starved + 1]
            self._charge(line.calls, under_way, pieces, settled, throttled)
        self._fill(settled, line.cuts, line.preparing)
        self._count_untold(settled, line.runs)

    def _lay(
        self,
        parts: Sequence[Booked],
        calls: Columns,
        runs: Columns,
        under_way: Sequence[Passage],
    ) -> _Line:
        """Lays the time line of these parts, which follow one another, and books their states."""
        now_ns = parts[-1].ended_ns
        calls, open_runs = (
            calls[:, : Calls.FAILED],
            [run(each) for one in under_way for each in one.handovers],
        )
        if under_way:
            calls = np.concatenate([calls, np.array([_open(one) for one in under_way], np.int64)])
        if open_runs:
            runs = np.concatenate([runs, np.array(open_runs, np.int64)])
        hung_ns = self._hung_ns(runs, under_way, now_ns)
        _guess(runs, self._pace, hung_ns)
        hung = np.array([[hung_ns, now_ns]] if hung_ns < now_ns else [], np.int64).reshape(-1, 2)
        # The front's own part of a hand-over, laying and sending, is not the way yet.
        own_ns = int(_OWN_PART * median_low(self._rtts)) if self._rtts else 0
        calls = calls.copy()
        calls[:, Calls.PREPARED] += own_ns * (calls[:, Calls.RANK] == calls[:, Calls.PREPARED])
        lines = (
            (runs[:, Runs.BEGUN], runs[:, Runs.ENDED]),
            (hung[:, 0], hung[:, 1]),
            (runs[:, Runs.THERE], runs[:, Runs.BEGUN]),
            (np.minimum(runs[:, Runs.HANDED] + own_ns, runs[:, Runs.THERE]), runs[:, Runs.THERE]),
            (calls[:, Calls.BEGUN], calls[:, Calls.PREPARED]),
        )
        cuts, states, preparing = _segments(lines, [parts[0].begun_ns, *(part.ended_ns for part in parts)])
        lengths = np.diff(cuts)
        # What lasts no time at a bound counts for neither side.
        ends = np.searchsorted(cuts, [part.ended_ns for part in parts]).tolist()
        for booked, (begun, ended) in zip(parts, pairwise([0, *ends]), strict=True):
            spent = np.bincount(states[begun:ended], lengths[begun:ended], len(_STATES))
            for state, nanoseconds in zip(_STATES, spent, strict=True):
                if nanoseconds:
                    booked.states[state] = int(nanoseconds)
        return _Line(cuts, states, preparing, calls, runs)

    @staticmethod
    def _count_untold(booked: Booked, runs: Columns) -> None:
        """Counts rows that were answered and of which no counters will tell: of streams, errors, and servers that do
        not count.
        """
        answered = runs[:, Runs.ANSWERED]
        untold = (runs[:, Runs.PLACED] == 0) & (runs[:, Runs.KIND] != FAILED)
        inside = (answered > booked.begun_ns) & (answered <= booked.ended_ns)
        booked.rows += int(runs[untold & inside, Runs.ROWS].sum())

    def _hung_ns(self, runs: Columns, under_way: Sequence[Passage], now_ns: int) -> int:
        """Since when the server is past its bound; `now_ns` where it is not. Who gave up is no sign of its life."""
        life = max([self._progress_ns, *(each.last_ns for one in under_way for each in one.handovers)])
        answered = runs[:, Runs.ANSWERED]
        silent = runs[((answered == 0) | (runs[:, Runs.KIND] == FAILED) & (answered > life)), Runs.HANDED]
        if self._silent_ns < life:
            self._silent_ns = NEVER
        if silent.size:
            self._silent_ns = min(self._silent_ns, int(silent.min()))
        waiting = runs[answered == 0, Runs.HANDED]
        if not waiting.size:
            return now_ns
        # Past the bound is the server, and nobody waited for it before the first who waits now.
        return max(max(life, self._silent_ns) + self.bound_ns(), int(waiting.min()))

    def _charge(
        self,
        calls: Columns,
        under_way: Sequence[Passage],
        pieces: tuple[Columns, Columns],
        booked: Booked,
        throttled: float,
    ) -> None:
        """Charges starved segments to the calls that completed next, and to what these were at."""
        # Of very many a part stands for all: the whole is exact, and what it is for is right to a few percent.
        step = -(-pieces[0].size // _MOST_CHARGED)
        begun, ended = (each[::step] for each in pieces)
        order = np.argsort(calls[:, Calls.RANK], kind="stable")
        order = order[calls[order, Calls.PREPARED] > begun[0]]
        waiting = calls[order]
        was_there = (waiting[:, Calls.BEGUN] <= begun[:, None]) & (
            waiting[:, Calls.PREPARED] >= ended[:, None]
        )
        next_ = order[np.argmax(was_there, axis=1)].tolist()
        ended_calls = len(self._marks)
        charged: Counter[tuple[Cause, Modality | None]] = Counter()
        for call, begun_ns, ended_ns in zip(next_, begun.tolist(), ended.tolist(), strict=True):
            story = self._story(call) if call < ended_calls else _story(under_way[call - ended_calls])
            _charge_to(story, begun_ns, ended_ns, charged, throttled)
        whole, part = booked.states[State.IDLE_PREP], max(1, charged.total())
        for key, nanoseconds in charged.items():
            booked.starved[key] = nanoseconds * whole // part
        if charged:
            booked.starved[charged.most_common(1)[0][0]] += whole - booked.starved.total()

    def _story(self, number: int) -> _Story:
        """Of the call in this row."""
        row = self._calls[number].tolist()
        modality, last = MODALITIES[row[Calls.MODALITY]], STAGES[row[Calls.LAST]]
        return _Story(row[Calls.BEGUN], modality, row[Calls.CPU_NS], last, self._marks[number])

    def _fill(self, booked: Booked, cuts: Columns, preparing: Columns) -> None:
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
        over = int(np.searchsorted(self._calls[:, Calls.ENDED], until_ns, "right"))
        if over:  # calls are entered in the order in which they ended
            del self._marks[:over]
            self._calls = self._calls[over:]
        runs = self._runs
        last = np.where(runs[:, Runs.PLACED] > 0, runs[:, Runs.ENDED], runs[:, Runs.ANSWERED])
        self._runs = runs[last > until_ns]


def _open(passage: Passage) -> tuple[int, int, int, int]:
    """The columns of a call under way; of those not handed over who is in work comes before who waits."""
    begun = passage.timeline.start_ns
    if passage.handovers:
        handed = passage.handovers[0].handed_ns
        return begun, handed, handed, NEVER
    worked = [item.begun_ns for item in passage.items if item.begun_ns]
    # Ranks stay in order as long as clocks run: nanoseconds of a century fit between the two.
    return begun, NEVER, (_IN_WORK + min(worked) if worked else _WAITS + begun), NEVER


def _guess(runs: Columns, pace: Pace, hung_ns: int) -> None:
    """Lays out runs that no counters cover by what answers took lately: in place. One without an answer is being
    executed until it hangs; a failed one was on its way all the time.
    """
    rows = np.flatnonzero(runs[:, Runs.PLACED] == 0)
    if not rows.size:
        return
    handed, answered, kind = (runs[rows, column] for column in (Runs.HANDED, Runs.ANSWERED, Runs.KIND))
    failed, plain = (kind == FAILED) & (answered > 0), (kind == PLAIN) & (answered > 0)
    ended = np.where(answered > 0, answered - pace.back_ns - np.where(plain, pace.output_ns, 0), hung_ns)
    ended = np.where(failed, answered, np.maximum(handed, ended))
    begun = handed + pace.there_ns
    if pace.execution_ns:
        begun = np.where(plain, np.maximum(begun, ended - pace.execution_ns), begun)
    begun = np.where(failed, answered, np.minimum(begun, ended))
    runs[rows, Runs.THERE] = np.where(failed, answered, np.minimum(begun, handed + pace.there_ns))
    runs[rows, Runs.BEGUN], runs[rows, Runs.ENDED] = begun, ended


def _segments(
    lines: Sequence[tuple[Columns, Columns]], bounds: Sequence[int]
) -> tuple[Columns, Columns, Columns]:
    """Where the state may change, the bounds among them; the state's place in _STATES between, and how many calls are
    in preprocessing. `lines` are starts and ends of E, U, Q, H and P.

    How many intervals of each line are open is counted in one sum, a field of bits a line: the highest field that is
    not empty names the state.
    """
    sizes = [start.size for start, _ in lines]
    opened = np.repeat(_FIELDS, sizes)
    points = np.concatenate([np.array(bounds), *(start for start, _ in lines), *(end for _, end in lines)])
    np.clip(points, bounds[0], bounds[-1], out=points)
    changes = np.concatenate([np.zeros(len(bounds), np.int64), opened, -opened])
    order = np.argsort(points, kind="stable")  # of equal moments, what opens comes before what closes
    sums = np.cumsum(changes[order])[:-1]
    preparing = sums & _P_MASK
    states = len(lines) - np.searchsorted(_FIELDS[::-1], sums, "right")
    return points[order], states, preparing


@dataclass(frozen=True, slots=True)
class _Story:
    """What one call was at: when it came, of which media it was, its workers' CPU time, the stage that it was at after
    its last mark, and its marks as in `Timeline.flat`.
    """

    begun_ns: int
    modality: Modality | None
    cpu_ns: int
    last: Stage
    flat: Sequence[int]


def _story(passage: Passage) -> _Story:
    """Of a call under way; where it is not prepared yet, of its item that is furthest."""
    flat = passage.timeline.flat
    if not passage.handovers and passage.items:
        # Its own timeline has its items' marks only at the end.
        flat = (
            flat
            + max(passage.items, key=lambda item: (item.begun_ns > 0, len(item.timeline.flat))).timeline.flat
        )
    cpu_ns = int(1e6 * sum(item.cpu_ms for item in passage.items))
    return _Story(passage.timeline.start_ns, passage.modality, cpu_ns, STAGES[at_last(passage)], flat)


def steps(story: _Story) -> list[tuple[int, Cause]]:
    """Until when a call was in which stage, one after the other, the last until it was prepared."""
    at = story.begun_ns
    found: list[tuple[int, Cause]] = []
    for stage, begun, ended in sorted(_marks(story), key=_BEGINS):
        cause = _CAUSES.get(stage)
        if ended <= at or cause is None:
            continue
        if begun > at:
            found.append((begun, _PAUSES[stage]))
        found.append((ended, cause))
        at = ended
    found.append((NEVER, _CAUSES[story.last]))
    return found


def _marks(story: _Story) -> Iterator[Mark]:
    flat = story.flat
    for place_, begun, ended in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        yield STAGES[place_], begun, ended


_BEGINS: Final = operator.itemgetter(1)


def _charge_to(
    story: _Story,
    begun_ns: int,
    ended_ns: int,
    charged: Counter[tuple[Cause, Modality | None]],
    throttled: float,
) -> None:
    """Charges a piece of starved time to what a call was at.

    What passed in a worker is charged to all that its worker did, by how long each took: one thread does it back to
    back, so whichever was longest is what the call is late for, and not the one that happened to come last.
    """
    found, modality = steps(story), story.modality
    number, at, worked = bisect_right(found, begun_ns, key=operator.itemgetter(0)), begun_ns, 0
    while at < ended_ns:
        until, cause = found[number]
        nanoseconds = min(until, ended_ns) - at
        at, number = until, number + 1
        if cause in _WORKED:
            worked += nanoseconds
            continue
        if throttled and cause is not Cause.RECEIVE:
            charged[Cause.THROTTLED, modality] += int(throttled * nanoseconds)
            nanoseconds -= int(throttled * nanoseconds)
        charged[cause, modality] += nanoseconds
    if not worked:
        return
    parts: Counter[Cause] = Counter()
    for stage, begun, ended in _marks(story):
        if (cause_ := _CAUSES.get(stage)) is not None and cause_ in _WORKED:
            parts[cause_] += ended - begun
    whole = parts.total()
    if throttled:
        # A worker was off the cores for so much of its time; how much of that was the quota's is known for all only.
        off = max(0.0, 1 - story.cpu_ns / whole) if whole and story.cpu_ns else throttled
        lost = int(min(throttled, off) * worked)
        charged[Cause.THROTTLED, modality] += lost
        worked -= lost
    if not whole:
        charged[Cause.DECODE, modality] += worked  # nothing is known of it yet; see at_last
    for cause, spent in parts.items():
        charged[cause, modality] += worked * spent // whole


def place(
    runs: Columns, before: Counters, after: Counters, trip: Trip, free_ns: int
) -> tuple[Columns, list[tuple[int, int, int]], Pace]:
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
    runs = runs[np.argsort(runs[:, Runs.ANSWERED], kind="stable")]
    handed, answered = runs[:, Runs.HANDED], runs[:, Runs.ANSWERED]
    requests = after.requests - before.requests
    output = (after.output_ns - before.output_ns) // requests
    mean = (after.compute_ns - before.compute_ns) // requests
    queue = (after.queue_ns - before.queue_ns) / requests
    groups = _groups(answered, after.executions - before.executions)
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    rows = np.add.reduceat(runs[:, Runs.ROWS], firsts)
    took = _took(rows, before, after, mean)
    ready = (np.maximum.reduceat(handed, firsts) + trip.there_ns).tolist()
    told = (answered[firsts] - output).tolist()
    ends, is_serial, least_ns = [], free_ns > 0, NEVER
    for ready_ns, told_ns, took_ns in zip(ready, told, took.tolist(), strict=True):
        late_ns = told_ns - max(ready_ns, free_ns) - took_ns
        least_ns = min(least_ns, late_ns)
        free_ns = told_ns - min(max(late_ns, trip.back_ns), trip.most_back_ns)
        ends.append(free_ns)
        free_ns *= is_serial
    ends_ = np.array(ends, np.int64)
    # What the server counts of its queue was before the execution, however late an answer was heard of.
    before_ns = float((ends_[groups] - took[groups] - handed).mean()) - trip.there_ns
    if before_ns < queue:
        ends_ += np.clip(int(queue - before_ns), 0, answered[firsts] - output - trip.back_ns - ends_)
    # A part of a batch that was answered so soon cannot have waited for more.
    ended = np.maximum(handed, ends_[groups])
    begun = np.maximum(handed, ended - took[groups])
    there = max(0, int(float((begun - handed).mean()) - queue))
    runs[:, Runs.BEGUN], runs[:, Runs.ENDED] = begun, ended
    runs[:, Runs.THERE] = np.minimum(begun, handed + there)
    runs[:, Runs.PLACED] = 1
    executed = zip(begun[firsts].tolist(), ended[firsts].tolist(), rows.tolist(), strict=True)
    extra = max(0, trip.extra_ns + least_ns - trip.back_ns - max(0, int(queue - before_ns)))
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


def _groups(answered: Columns, count: int) -> Columns:
    """To which of `count` groups each answer belongs, counted from 0: cut at the widest gaps between them."""
    groups = np.zeros(answered.size, np.int64)
    cuts = min(max(1, count), answered.size) - 1
    if cuts:
        gaps = np.diff(answered)
        groups[1 + np.argpartition(gaps, gaps.size - cuts)[gaps.size - cuts :]] = 1
    return np.cumsum(groups)


def _took(rows: Columns, before: Counters, after: Counters, mean: int) -> Columns:
    """How long executions of so many rows took between two readings, on average; `mean` where there was none."""
    known = {size: spent // count for size, (count, spent) in _grown(before, after).items()}
    return np.array([known.get(size, mean) for size in rows.tolist()], np.int64)


def _grown(before: Counters, after: Counters) -> dict[int, tuple[int, int]]:
    """Executions between two readings, and the nanoseconds they took, by their rows."""
    grown = {}
    for size, (count, spent) in after.batches.items():
        count_before, spent_before = before.batches.get(size, (0, 0))
        if count > count_before:
            grown[size] = count - count_before, spent - spent_before
    return grown


def share(nanoseconds: float, of_ns: float) -> float:
    """A part of a whole, 0 to 1; 0 where there is no whole."""
    return min(1.0, nanoseconds / of_ns) if of_ns > 0 else 0.0


def utilisation(booked: Booked) -> float:
    """Accelerator utilisation as MLPerf Storage has it, for demand: BUSY by all time in which somebody asked.

    NaN where nobody did.
    """
    asked = booked.span_ns - booked.states[State.IDLE_DEMAND]
    return booked.states[State.BUSY] / asked if asked > 0 else math.nan
