"""The one who watches: it settles the accounts turn by turn, and keeps the last minute.

What is made of calls once they ended is made here: numbers at once, and off the path accounts, and what sinks make of
them (log lines, spans). It asks the model server what it counted while there is something to count, and waits for no
answer longer than for its own next turn. It decides nothing of the path, and its own CPU time is counted.

Runs on the event loop of the path, in pieces of less than a millisecond.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol, TypeVar

from annotated_types import Ge, Le

from sidecar.errors import SidecarError, UpstreamUnimplemented
from sidecar.media import Modality
from sidecar.observe.advice import Alternatives, Situation, advise
from sidecar.observe.demand import Demand
from sidecar.observe.gpus import Gpu, Gpus, disagreement
from sidecar.observe.journal import Arrival, Journal, Passage
from sidecar.observe.machine import Machine, Spell, Usage, between, joined
from sidecar.observe.notes import Noted, Notes
from sidecar.observe.notes import joined as joined_notes
from sidecar.observe.picture import Fleet, Picture, UpstreamView, WorkerView
from sidecar.observe.starvation import Account, Booked, Cause, Counters, State, share, summed
from sidecar.observe.timings import Timeline
from sidecar.observe.verdict import Bell, Finding, Verdict, judge

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often, and how soon again where the next look decides: an alarm may be on its way, or a hang. An onset is told at
# the second look in a row that finds its half second starved: within 1.6 s.
_TURN_S: Final = 0.75
_SOON_S: Final = 0.5
# A look is a glance, for the bell alone, while nobody wants to know more; accounts are settled after so many calls and
# so long at most, for a turn costs as much as noting some hundred calls. While a bell rings only its end is awaited.
_CALM_NS: Final = 5_000_000_000
_MOST_NOTED: Final = 1024
_RINGING_NS: Final = 2_000_000_000
# For who asks from another thread.
_PATIENCE_S: Final = 1.0
# An answer that is out for longer may be one of a server that hangs.
_LONG_NS: Final = 400_000_000
# How long the model server may take to say what it counted before a turn goes on without.
_ASK_S: Final = 0.2
# What is older is settled for good; younger time may yet be explained by calls that have not ended. One whose
# message is still coming, for a model that nobody knows yet, holds that up, but not for longer.
_SETTLED_NS: Final = 500_000_000
_MOST_UNSETTLED_NS: Final = 3_000_000_000
# A model server that does not count is asked again after this: another may have taken its place.
_UNCOUNTED_NS: Final = 60_000_000_000
_UNCOUNTED: Final = "the model server does not count: executions of %s are inferred from its answers"
# Pictures of a turn that are kept, by their windows.
_MOST_DRAWN: Final = 16
# What is kept.
_KEPT_NS: Final = 60_000_000_000
# Items below this have threads of their own beside the others (admission's smallest cost class).
_EXPRESS_BELOW_MS: Final = 4.0


@dataclass(frozen=True, slots=True)
class VerdictConfig:
    """`enabled`: whether anybody watches; without, replies have their stage times all the same. `window_s`: over how
    many seconds a verdict looks, where nobody asks for another window.
    """

    enabled: bool = True
    window_s: Annotated[float, Ge(1), Le(60)] = 10.0


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """What is known of a model at the model server: who asks it, its largest batch, how long it waits for one to
    fill, how many it runs at once (0: it has not told yet).
    """

    models: tuple[str, ...]
    version: str = ""
    target_rows: int = 0
    batch_delay_us: int = 0
    instances: int = 0


class Surroundings(Protocol):
    """What the watcher asks of the rest of the server."""

    def upstreams(self) -> Mapping[str, UpstreamFacts]:
        """The models at the model server by name."""
        ...

    async def counters(self, upstream: str, version: str, timeout_s: float) -> Counters:
        """What the model server counted of one. UpstreamUnimplemented where it does not count."""
        ...

    def fleet(self) -> Fleet:
        """Workers, threads and queues now."""
        ...

    def pids(self) -> Sequence[int]:
        """Worker processes."""
        ...

    def sends_bytes(self) -> bool:
        """Whether tensors go to the model server as bytes."""
        ...

    def alternatives(self, models: Sequence[str]) -> tuple[Alternatives, ...]:
        """What the media lately seen would take by other settings."""
        ...


@dataclass(slots=True)
class _Upstream:
    """An account, its last minute, its totals since the start, and its bell."""

    account: Account
    bell: Bell = field(default_factory=Bell)
    chunks: deque[Booked] = field(default_factory=deque)
    tail: Booked = field(default_factory=lambda: Booked(0, 0))
    latest: Booked = field(default_factory=lambda: Booked(0, 0))
    states: Counter[State] = field(default_factory=Counter)
    starved: Counter[tuple[Cause, Modality | None]] = field(default_factory=Counter)
    fill_ns: float = 0.0
    uncounted_ns: int = 0
    glanced_ns: int = 0
    asking: asyncio.Task[None] | None = None

    def window(self, now_ns: int, span_ns: int) -> Booked:
        """The last so many nanoseconds, as far as they are known, in whole turns."""
        parts = [chunk for chunk in list(self.chunks) if chunk.ended_ns > now_ns - span_ns]
        return summed([*parts, self.tail])


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one model at the model server since the start, seconds; and its bell."""

    states: Mapping[State, float]
    starved: Mapping[tuple[Cause, Modality | None], float]
    fill_s: float
    starved_ratio: float
    alarm: bool


class Watcher:
    """Watches a journal. `sinks` are given the calls that ended, each turn."""

    def __init__(
        self,
        config: VerdictConfig,
        journal: Journal,
        surroundings: Surroundings,
        sinks: Iterable[Callable[[Sequence[Passage]], None]] = (),
        *,
        machine: Machine | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        self._config = config
        self._journal = journal
        self._around = surroundings
        self._sinks = tuple(sinks)
        self._machine = machine or Machine()
        self._gpus = gpus or Gpus()
        self._gpu: tuple[Gpu, ...] = ()
        self._gpu_looks: deque[tuple[int, float]] = deque()
        self._gpu_looking: asyncio.Task[None] | None = None
        self._upstreams: dict[str, _Upstream] = {}
        self._asked_last = ""
        self._notes: defaultdict[str, Notes] = defaultdict(Notes)
        self._noted: list[Noted] = []
        self._demands: deque[tuple[int, Demand]] = deque()
        self._spells: deque[tuple[int, Spell]] = deque()
        self._usages: deque[Usage] = deque()
        self._throttled = 0.0
        self._drawn: dict[float, Picture] = {}
        self._busy = False
        self._listeners = 0
        self._turned = asyncio.Event()
        self._turned_ns = 0
        self._turning = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._task: asyncio.Task[None] | None = None
        self.spent_ns = 0
        self.turns = 0

    @property
    def watches(self) -> bool:
        """Whether anything is watched."""
        return self._config.enabled

    def reconfigure(self, config: VerdictConfig) -> None:
        """Goes by other settings. Where watching begins or ends, what was known is forgotten."""
        if config.enabled != self._config.enabled:
            self._upstreams.clear()
            self._notes.clear()
            self._noted.clear()
            self._demands.clear()
            self._journal.kept = config.enabled or self._journal.queues
            # Those who wait for something new hear that there will be nothing.
            self._turned.set()
            self._turned = asyncio.Event()
        self._config = config
        self._drawn.clear()

    def note(self, passage: Passage) -> None:
        """Takes in a call that ended; for the journal, at each call's end."""
        if not self._config.enabled:
            return
        if (notes := self._notes[passage.upstream]).take(passage):
            begun = time.thread_time_ns()
            notes.lay()
            self.spent_ns += time.thread_time_ns() - begun
        self._asked_last = passage.upstream or self._asked_last

    def _absorb(self, upstream: str) -> None:
        """Tells a model's account of calls that ended since."""
        if notes := self._notes.get(upstream):
            noted = notes.drain()
            self._noted.append(noted)
            if upstream in self._upstreams:
                self._upstreams[upstream].account.absorb(noted)

    def _absorb_all(self) -> None:
        for upstream in self._notes:
            self._absorb(upstream)

    def open(self) -> None:
        """Begins to watch, on the running loop."""
        self._journal.takers.append(self.note)
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        now_ns = time.monotonic_ns()
        self._know(self._facts(), now_ns)
        self._look_around(Demand(), now_ns)
        self._task = asyncio.create_task(self._watch(), name="watcher")

    async def close(self) -> None:
        """Ends watching; the sinks are given what ended last."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for each in self._upstreams.values():
            if each.asking is not None:
                each.asking.cancel()
        self._sink(self._journal.take_ended())

    async def _watch(self) -> None:
        """Look after look: a turn where somebody wants to know or it is time, else a glance."""
        while True:
            await asyncio.sleep(_SOON_S if self._is_tense() else _TURN_S)
            if not self._config.enabled:
                self._sink(self._journal.take_ended())
            elif self._is_due():
                await self.fresh()
            else:
                self._glance()

    async def fresh(self) -> None:
        """Returns when what is to be seen is as fresh as can be. A turn that fails is told, and the next one comes."""
        async with self._turning:
            if not self._config.enabled or time.monotonic_ns() - self._turned_ns < _TURN_S / 2 * 1e9:
                return
            try:
                await self._turn()
            except Exception:
                log.exception("watching failed; the path goes on without")

    def refresh(self) -> None:
        """The same for observers on other threads; they do not wait long for it."""
        if threading.get_ident() == self._thread or self._loop is None:
            return
        with suppress(RuntimeError, concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(self.fresh(), self._loop).result(_PATIENCE_S)

    def _is_due(self) -> bool:
        """Whether it is time for a turn: somebody waits for one, an alarm or a hang may be on its way, demand comes,
        much has happened, or nothing was settled for long.
        """
        if self._listeners or self._is_tense() or time.monotonic_ns() - self._turned_ns > _CALM_NS:
            return True
        busy = bool(self._journal.under_way or self._journal.arriving or any(self._notes.values()))
        comes, self._busy = busy and not self._busy, busy
        noted = sum(len(each.calls) for each in self._noted) + sum(map(len, self._notes.values()))
        return comes or noted > _MOST_NOTED

    def _glance(self) -> None:
        """Looks for the beginning of an alarm, or more seldom for its end; settles nothing."""
        begun, now_ns = time.thread_time_ns(), time.monotonic_ns()
        self._sink(self._journal.take_ended())
        looks = [
            name
            for name, each in self._upstreams.items()
            if not each.bell.since_ns or now_ns - each.glanced_ns > _RINGING_NS
        ]
        if looks:
            under_way = self._under_way()
            for name in looks:
                self._absorb(name)
                each = self._upstreams[name]
                if each.bell.rests and each.account.rests and not under_way[name]:
                    continue
                each.latest, each.glanced_ns = each.account.glance(now_ns, under_way[name]), now_ns
                self._ring(name, each, now_ns)
        self.spent_ns += time.thread_time_ns() - begun

    @property
    def dropped(self) -> int:
        """Ended calls that were wanted whole and could not be kept."""
        return self._journal.dropped

    async def turned(self) -> None:
        """Returns when there is something new to see; while somebody waits here, that is soon."""
        self._listeners += 1
        try:
            await self._turned.wait()
        finally:
            self._listeners -= 1

    def lacked(self, upstream: str, begun_ns: int, ended_ns: int) -> float | None:
        """The part of an interval of the last minute in which a model lacked input, 0 to 1: for want of demand, or
        because of us. Turns that lie in it in part count for that part. None where it is not settled yet.
        """
        each = self._upstreams.get(upstream)
        if each is None or not each.chunks or each.chunks[-1].ended_ns < ended_ns:
            return None
        lacked = covered = 0.0
        for part in each.chunks:
            inside = min(part.ended_ns, ended_ns) - max(part.begun_ns, begun_ns)
            if inside > 0:
                states = part.states
                idle = states[State.IDLE_PREP] + states[State.IDLE_XFER] + states[State.IDLE_DEMAND]
                lacked += inside * share(idle, part.span_ns)
                covered += inside
        return share(lacked, covered)

    def totals(self) -> Mapping[str, Totals]:
        """Sums since the start by upstream, up to what is settled; for observers on any thread."""
        now_ns = time.monotonic_ns()
        return {
            name: Totals(
                {state: each.states[state] / 1e9 for state in State},
                {key: spent / 1e9 for key, spent in list(each.starved.items())},
                each.fill_ns / 1e9,
                self._verdict(name, each, now_ns, self._config.window_s).starved,
                each.bell.since_ns > 0,
            )
            for name, each in list(self._upstreams.items())
        }

    def picture(self, window_s: float = 0.0) -> Picture:
        """Everything over the last `window_s` seconds; 0 for the settings' own."""
        window_s = min(60.0, window_s or self._config.window_s)
        # All who watch are told at once, and of the same turn.
        if (drawn := self._drawn.get(window_s)) is not None:
            return drawn
        if len(self._drawn) >= _MOST_DRAWN:
            self._drawn.clear()
        picture = self._drawn[window_s] = self._draw(window_s)
        return picture

    def _draw(self, window_s: float) -> Picture:
        now_ns = time.monotonic_ns()
        demand = Demand()
        for at_ns, part in self._demands:
            if at_ns > now_ns - window_s * 1e9:
                demand.add(part)
        spell = joined([each for at_ns, each in self._spells if at_ns > now_ns - window_s * 1e9])
        facts, fleet = self._around.upstreams(), self._around.fleet()
        note = self._disagreement(now_ns, window_s)
        views = []
        for name, each in sorted(self._upstreams.items()):
            fact = facts.get(name, UpstreamFacts(()))
            verdict = self._verdict(name, each, now_ns, window_s)
            views.append(self._view(each, fact, verdict, demand, spell, fleet, note))
        return Picture(
            window_s=window_s,
            upstreams=tuple(views),
            demand=demand,
            spell=spell,
            fleet=fleet,
            workers=self._workers(now_ns - int(window_s * 1e9)),
            gpus=self._gpu,
            under_way=len(self._journal.under_way) + len(self._journal.arriving),
        )

    def _view(  # noqa: PLR0917 - all of a window's parts
        self,
        each: _Upstream,
        facts: UpstreamFacts,
        verdict: Verdict,
        demand: Demand,
        spell: Spell | None,
        fleet: Fleet,
        note: str,
    ) -> UpstreamView:
        booked = verdict.booked
        ceiling = each.account.ceiling(booked)
        lines = (
            ()
            if spell is None
            else advise(
                Situation(
                    verdict=verdict,
                    demand=demand,
                    spell=spell,
                    threads=fleet.threads,
                    express=fleet.express,
                    rows_per_s=booked.rows_per_s,
                    ceiling=ceiling,
                    target_rows=facts.target_rows,
                    batch_delay_us=facts.batch_delay_us,
                    instances=facts.instances,
                    raw_bytes=self._around.sends_bytes(),
                    alternatives=self._around.alternatives(facts.models)
                    if verdict.finding in {Finding.STARVED, Finding.ACCELERATOR}
                    else (),
                )
            )
        )
        return UpstreamView(
            verdict=verdict,
            lines=tuple(lines),
            models=facts.models,
            rows_per_s=booked.rows_per_s,
            ceiling=ceiling,
            counted=each.account.counts,
            note=note,
        )

    def _verdict(self, name: str, each: _Upstream, now_ns: int, window_s: float) -> Verdict:
        return judge(name, each.window(now_ns, int(window_s * 1e9)), each.latest, each.bell)

    def _facts(self) -> Mapping[str, UpstreamFacts]:
        return self._around.upstreams() if self._config.enabled else {}

    def _know(self, facts: Mapping[str, UpstreamFacts], now_ns: int) -> None:
        """Opens accounts of models that are new, and tells all what is known of them."""
        for name, fact in facts.items():
            if name not in self._upstreams:
                self._upstreams[name] = _Upstream(Account(now_ns))
            account = self._upstreams[name].account
            account.target_rows, account.instances = fact.target_rows, max(1, fact.instances)

    async def _turn(self) -> None:
        begun = time.thread_time_ns()
        now_ns = time.monotonic_ns()
        facts = self._facts()
        self._know(facts, now_ns)
        self._absorb_all()
        demand = Demand()
        demand.count(joined_notes(self._noted), _EXPRESS_BELOW_MS)
        self._noted.clear()
        self._demands.append((now_ns, demand))
        self._look_around(demand, now_ns)
        self._sink(self._journal.take_ended())
        self.spent_ns += time.thread_time_ns() - begun
        await self._count(facts, self._under_way())
        begun = time.thread_time_ns()
        self._settle()
        self.turns += 1
        self._turned_ns = time.monotonic_ns()
        self._drawn.clear()
        self._turned.set()
        self._turned = asyncio.Event()
        self.spent_ns += time.thread_time_ns() - begun

    def _sink(self, ended: Sequence[Passage]) -> None:
        for sink in self._sinks if ended else ():
            try:
                sink(ended)
            except Exception:
                log.exception("calls that ended could not be told to %s", sink)

    def _is_tense(self) -> bool:
        if any(each.bell.listens for each in self._upstreams.values()):
            return True
        long_ago = time.monotonic_ns() - _LONG_NS
        return any(
            handover.handed_ns < long_ago and not handover.answered_ns
            for passage in self._journal.under_way
            for handover in passage.handovers
        )

    def _under_way(self) -> defaultdict[str, list[Passage]]:
        """The calls that have not ended, by the model at the model server."""
        found: defaultdict[str, list[Passage]] = defaultdict(list)
        for passage in self._journal.under_way:
            found[passage.upstream].append(passage)
        for arrival in self._journal.arriving:
            # Whose message is still coming, asks, until it says otherwise, what was asked last.
            found[self._asked_last].append(_unknown(arrival, self._asked_last))
        return found

    async def _count(
        self, facts: Mapping[str, UpstreamFacts], under_way: Mapping[str, Sequence[Passage]]
    ) -> None:
        """Asks what the model server counted of those that were asked something; one that is slow to say it is heard
        at a later turn.
        """
        now_ns = time.monotonic_ns()
        for name, each in self._upstreams.items():
            wants = each.account.wants_counters(under_way[name])
            counts = now_ns - each.uncounted_ns > _UNCOUNTED_NS or not each.uncounted_ns
            if wants and each.asking is None and counts and name in facts:
                each.asking = asyncio.create_task(self._ask(name, each, facts[name].version))
        asking = [each.asking for each in self._upstreams.values() if each.asking is not None]
        if asking:
            await asyncio.wait(asking, timeout=_ASK_S)

    async def _ask(self, name: str, each: _Upstream, version: str) -> None:
        try:
            counters = await self._around.counters(name, version, _MOST_UNSETTLED_NS / 1e9)
            begun = time.thread_time_ns()
            each.account.count(counters, self._throttled)
            self.spent_ns += time.thread_time_ns() - begun
        except UpstreamUnimplemented:
            if not each.uncounted_ns:
                log.info(_UNCOUNTED, name)
            each.uncounted_ns = time.monotonic_ns()
            log.debug("the model server does not count: executions of %s are inferred from its answers", name)
        except SidecarError as problem:
            log.debug("the model server does not tell what it counted of %s: %s", name, problem.message)
        finally:
            each.asking = None

    def _settle(self) -> None:
        self._absorb_all()
        now_ns = time.monotonic_ns()
        until_ns = now_ns - _SETTLED_NS
        for arrival in self._journal.arriving:  # the first is the oldest
            until_ns = max(now_ns - _MOST_UNSETTLED_NS, min(until_ns, arrival.at_ns))
            break
        under_way = self._under_way()
        for name, each in self._upstreams.items():
            booked, each.tail, each.latest = each.account.settle(
                until_ns, now_ns, under_way[name], self._throttled
            )
            if booked.span_ns:
                each.chunks.append(booked)
                each.states.update(booked.states)
                each.starved.update(booked.starved)
                each.fill_ns += booked.fill_ns
            self._ring(name, each, now_ns)
            _forget(each.chunks, lambda chunk: chunk.ended_ns, now_ns)
        _forget(self._demands, lambda kept: kept[0], now_ns)
        _forget(self._spells, lambda kept: kept[0], now_ns)
        _forget(self._usages, lambda usage: usage.at_ns, now_ns)

    def _look_around(self, demand: Demand, now_ns: int) -> None:
        try:
            self._throttled = self._look(demand, now_ns)
        except Exception:
            log.exception("the machine cannot be looked at")

    def _look(self, demand: Demand, now_ns: int) -> float:
        """Looks at the machine; the part of the time since the last look for which a quota kept us from running."""
        usage = self._machine.look(self._around.pids())
        before = self._usages[-1] if self._usages else None
        self._usages.append(usage)
        if self._gpus and (self._gpu_looking is None or self._gpu_looking.done()):
            self._gpu_looking = asyncio.create_task(self._look_at_gpus())
        if before is None:
            return 0.0
        span = max(1, usage.at_ns - before.at_ns)
        running = max(demand.worked_ns / span, self._around.fleet().running)
        spell = between(before, usage, running, demand.off_core)
        self._spells.append((now_ns, spell))
        return spell.throttled

    def _workers(self, since_ns: int) -> tuple[WorkerView, ...]:
        """What each worker process used from the first look since then to the last, and between two looks at least."""
        looks = list(self._usages)
        if not looks[1:]:
            return ()
        *before, last = looks
        first = next((usage for usage in before if usage.at_ns > since_ns), before[-1])
        span = max(1, last.at_ns - first.at_ns)
        return tuple(
            WorkerView(pid, (spent - first.others_ns.get(pid, 0)) / span)
            for pid, spent in last.others_ns.items()
        )

    async def _look_at_gpus(self) -> None:
        """On a thread: a driver may take its time."""
        self._gpu = await asyncio.to_thread(self._gpus.look)
        used = max((gpu.utilisation for gpu in self._gpu), default=0.0)
        self._gpu_looks.append((time.monotonic_ns(), used))
        _forget(self._gpu_looks, lambda kept: kept[0], time.monotonic_ns())

    def _disagreement(self, now_ns: int, window_s: float) -> str:
        """How the driver contradicts the accounts of all models together, over the window; else empty."""
        looks = [used for at_ns, used in self._gpu_looks if at_ns > now_ns - window_s * 1e9]
        if not looks:
            return ""
        windows = [each.window(now_ns, int(window_s * 1e9)) for each in self._upstreams.values()]
        busy = sum(share(window.states[State.BUSY], window.span_ns) for window in windows)
        return disagreement(sum(looks) / len(looks), min(1.0, busy))

    def _ring(self, name: str, each: _Upstream, now_ns: int) -> None:
        rang = each.bell.since_ns
        each.bell.look(each.latest, now_ns)
        if bool(rang) != bool(each.bell.since_ns):
            words = self._verdict(name, each, now_ns, 2.0).words
            if each.bell.since_ns:
                log.warning("alarm: %s", words)
            else:
                log.info("the alarm of %s is over after %.1f s", name, (now_ns - rang) / 1e9)


def _unknown(arrival: Arrival, upstream: str) -> Passage:
    """A call of which nothing is known but that it has come."""
    return Passage("", "", upstream, None, Timeline(arrival.at_ns), (), ())


def _forget(kept: deque[T], at_ns: Callable[[T], int], now_ns: int) -> None:
    while kept and at_ns(kept[0]) < now_ns - _KEPT_NS:
        kept.popleft()
