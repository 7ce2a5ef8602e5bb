"""What would help, and by how much: operational laws over what was measured in one window.

    D     CPU seconds an item takes, of workers, of the front, of everybody else on these cores
    X     items a second <= threads / time on a thread   each modality's threads, and all of them together
                         <= budget  / (D(workers) + D(front))         what a quota allows
                         <= cores   / (D(workers) + D(front) + D(others))
                         <= the accelerator's ceiling
    N = X R (Little): callers who wait for their answers ask X' = N / R' when an answer takes R' instead of R

The least bound is the bottleneck; what a change gives is read off the bounds that it moves. Laws: Denning and Buzen,
"The Operational Analysis of Queueing Network Models" (1978); the form is Plumber's (MLSys'22). The mix is the window's:
per item of it, so that a change of mix is no change of speed.

Pure. Every line names the setting to change, what it is and what it would be; what cannot be foretold has no figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.media import Modality
from sidecar.observe.demand import Demand
from sidecar.observe.machine import Spell
from sidecar.observe.starvation import Cause
from sidecar.observe.verdict import MODERATE, Finding, Verdict

# From here on threads or cores are what keeps items waiting.
_SATURATED: Final = 0.85
# What cores are sized for: above it waiting grows faster than work (docs/design).
_SIZED_FOR: Final = 0.85
# A prediction that is no better than this is not worth a line.
_WORTH: Final = 1.03


@dataclass(frozen=True, slots=True)
class Line:
    """One thing to do: a setting, what it is, what it would be, and items a second now and then; `then` is NaN where
    nothing can be foretold.
    """

    setting: str
    present: str
    proposed: str
    now: float
    then: float
    why: str


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What the same media would take of workers' CPU by other settings, by what it takes now: 0.6 is 40 % less.

    `model` is the name that settings know it by; None where a setting is in force already or cannot be.
    """

    model: str
    fast: float | None = None
    uint8: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """All that advice about one model at the model server goes by.

    `rows_per_s`: what it answers now; `ceiling`: what it could, 0 for not known; both rows a second. `threads` and
    `express` are the plan's. `raw_bytes`: whether tensors go to it as bytes.
    """

    verdict: Verdict
    demand: Demand
    spell: Spell
    threads: Mapping[Modality, int]
    express: int
    rows_per_s: float
    ceiling: float
    target_rows: int = 0
    batch_delay_us: int = 0
    instances: int = 1
    raw_bytes: bool = False
    alternatives: tuple[Alternatives, ...] = ()


_LineOf = Callable[..., Iterator[Line]]


@dataclass(frozen=True, slots=True)
class Laws:
    """Bounds on items a second, over all models. CPU in seconds an item."""

    items_per_s: float
    workers_s: float
    front_s: float
    others_s: float
    shares: Mapping[Modality, tuple[float, float]]
    threads: Mapping[Modality, int]
    express: int
    cores: float
    budget: float
    ceiling: float
    population: float
    residence_s: float
    waited_s: float
    worked_s: float
    scale: float = field(default=1.0)

    @property
    def thread_bound(self) -> float:
        """By threads: each modality's own, those for small items beside, and as many as may run at once."""
        bounds = [math.inf]
        for modality, (all_s, express_s) in self.shares.items():
            threads = self.threads.get(modality, 1)
            large = (all_s - express_s) * self.scale
            bounds.append(threads / large if large > 0 else math.inf)
            bounds.append((threads + self.express) / (all_s * self.scale))
        together = max(self.threads.values(), default=1) + self.express
        if whole := sum(all_s for all_s, _ in self.shares.values()):
            bounds.append(together / (whole * self.scale))
        return min(bounds)

    @property
    def core_bound(self) -> float:
        """By cores, and by the quota."""
        own = self.workers_s * self.scale + self.front_s
        whole = own + self.others_s
        by_cores = self.cores / whole if whole else math.inf
        return min(by_cores, self.budget / own if own and self.budget < self.cores else math.inf)

    @property
    def threads_full(self) -> bool:
        """Whether threads alone keep more from being prepared."""
        return self.items_per_s >= _SATURATED * self.thread_bound and self.thread_bound < self.core_bound

    @property
    def saturated(self) -> bool:
        """Whether threads, cores or the accelerator are full, so that a wider bound is filled."""
        return self.items_per_s >= _SATURATED * min(self.thread_bound, self.core_bound, self.ceiling)


def laws(situation: Situation) -> Laws | None:
    """The laws of a window; None where nothing was prepared in it."""
    demand, spell = situation.demand, situation.spell
    items = sum(demand.items.values())
    if not items or not spell.seconds:
        return None
    rate = items / spell.seconds
    workers_s = sum(demand.cpu_ms.values()) / 1e3 / items
    others = max(0.0, spell.cores - spell.idle - spell.front - spell.workers)
    calls = max(1, demand.calls)
    # Rows of the accelerator are items of its own models; the others' share of the work stays what it is.
    scale = rate / situation.rows_per_s if situation.rows_per_s else math.inf
    return Laws(
        items_per_s=rate,
        workers_s=workers_s,
        # Without worker processes the front's clock counts their threads too.
        front_s=(spell.front if spell.workers else max(0.0, spell.front - workers_s * rate)) / rate,
        others_s=others / rate,
        shares={
            modality: _occupied(demand, modality, items)
            for modality, spent_ms in demand.cpu_ms.items()
            if spent_ms
        },
        threads=situation.threads,
        express=situation.express,
        cores=spell.cores,
        budget=spell.budget,
        ceiling=situation.ceiling * scale if situation.ceiling and math.isfinite(scale) else math.inf,
        population=demand.residence_ns / 1e9 / spell.seconds,
        residence_s=demand.residence_ns / 1e9 / calls,
        waited_s=demand.waited_ns / 1e9 / calls,
        worked_s=demand.worked_ns / 1e9 / calls,
    )


def _occupied(demand: Demand, modality: Modality, items: int) -> tuple[float, float]:
    """Seconds an item that threads are occupied with a modality, and small items' part of it. A thread is taken while
    it waits for a core, too: by CPU time alone it would seem to have room.
    """
    cpu_ms = demand.cpu_ms[modality]
    occupied_ms = max(cpu_ms, demand.worked_ns_of(modality) / 1e6)
    express = demand.express_ms.get(modality, 0.0) / cpu_ms
    return occupied_ms / 1e3 / items, express * occupied_ms / 1e3 / items


def predicted(now: Laws, then: Laws) -> float:
    """Items a second after a change of threads, cores or cost an item.

    What is full fills what it is given: in proportion to its own bound, up to the others. What is not full is
    limited by those who ask, and they ask sooner where an answer takes less time.
    """
    most = min(then.core_bound, then.ceiling)
    if now.saturated:
        wider = then.thread_bound / now.thread_bound
        if now.thread_bound > min(now.core_bound, now.ceiling):
            wider = min(then.thread_bound, most) / min(now.core_bound, now.ceiling)
        return max(0.0, min(now.items_per_s * wider, max(most, 0.0), _askers(now, then)))
    return min(most, then.thread_bound, _askers(now, then))


def _askers(now: Laws, then: Laws) -> float:
    """What callers who wait for their answers can ask for at most: without a wait, and by what work takes then."""
    saved = now.worked_s * (1 - then.scale / now.scale)
    waited = now.waited_s if now.saturated else 0.0
    left = now.residence_s - saved - waited
    return now.items_per_s * now.residence_s / left if left > 0 else math.inf


def advise(situation: Situation) -> list[Line]:
    """What would help, the most helpful first."""
    found = laws(situation)
    lines = list(_lines(situation, found))
    return sorted(lines, key=lambda line: -line.then if math.isfinite(line.then) else 0.0)


def _lines(situation: Situation, found: Laws | None) -> Iterator[Line]:
    verdict = situation.verdict
    match verdict.finding:
        case Finding.HUNG:
            yield _plain(
                f"model server: {verdict.upstream}",
                "gives no sign of life",
                "restart or unload it",
                "requests were handed over and none is answered; nothing here can speed that up",
            )
        case Finding.TRANSPORT:
            yield _transport(situation)
        case Finding.BATCH:
            yield _batch(situation)
        case Finding.STARVED if verdict.cause is Cause.RECEIVE:
            yield _plain(
                "callers",
                "their media comes slowly",
                "nearer, or a faster network",
                "workers wait for bytes; more cores would wait as long",
            )
        case Finding.STARVED if verdict.cause is Cause.DELIVER:
            yield _plain(
                "replicas",
                f"one front, busy {situation.spell.front:.0%} of a core",
                "two, or fewer and larger calls",
                "what is prepared waits for the front to hand it over: it has one thread for all calls",
            )
            if found is not None and found.threads_full:
                # The next item is under way as soon as one is handed over, and yet the accelerator waits between them.
                yield from _faster(situation, found)
        case Finding.STARVED if found is not None:
            yield from _faster(situation, found)
        case Finding.ACCELERATOR if found is not None and verdict.fill >= MODERATE:
            # Busy, with batches that would be fuller if more were prepared.
            yield from _faster(situation, found)
    if verdict.fill >= MODERATE and situation.target_rows:
        yield _plain(
            f"config.pbtxt of {verdict.upstream}: dynamic_batching.max_queue_delay_microseconds",
            f"{situation.batch_delay_us}",
            f"{max(1000, 2 * situation.batch_delay_us)}",
            f"batches run with room left while rows are being prepared: {verdict.fill:.0%} of the time is lost by it",
        )


def _plain(setting: str, present: str, proposed: str, why: str) -> Line:
    return Line(setting, present, proposed, math.nan, math.nan, why)


def _transport(situation: Situation) -> Line:
    if situation.raw_bytes:
        return _plain(
            "triton.shared_memory",
            "tensors go as bytes",
            "auto, with one /dev/shm for both containers",
            "the accelerator waits for tensors on their way; by shared memory nothing is copied",
        )
    return _plain(
        "triton.address",
        "slow to reach",
        "a model server in the same pod",
        "the accelerator waits for requests on their way to it",
    )


def _batch(situation: Situation) -> Line:
    name = f"config.pbtxt of {situation.verdict.upstream}"
    if situation.batch_delay_us:
        return _plain(
            f"{name}: dynamic_batching.max_queue_delay_microseconds",
            f"{situation.batch_delay_us}",
            f"{situation.batch_delay_us // 4}",
            "requests wait in its queue while nothing is executed",
        )
    return _plain(
        f"{name}: instance_group.count",
        f"{situation.instances}",
        f"{situation.instances + 1}",
        "requests wait in its queue while nothing is executed, and it was told no delay",
    )


def _faster(situation: Situation, now: Laws) -> Iterator[Line]:
    """For preprocessing that is too slow: threads, cores, a quota, and less work an item."""
    # A figure is told of the model's own rows, though the laws are those of all items.
    part = situation.rows_per_s / now.items_per_s if situation.rows_per_s else 1.0

    def line(setting: str, present: str, proposed: str, then: Laws, why: str) -> Iterator[Line]:
        rate = predicted(now, then)
        if rate >= _WORTH * now.items_per_s:
            yield Line(setting, present, proposed, now.items_per_s * part, rate * part, why)

    # Where it is not starved outright, the modality that takes most of the workers' time.
    modality = situation.verdict.modality or max(
        now.shares, key=lambda kind: now.shares[kind][0], default=None
    )
    if modality is not None and modality in now.threads:
        threads = now.threads[modality]
        more = replace(now, threads={**now.threads, modality: threads + 1})
        yield from line(
            f"threads.{modality.value}",
            f"{threads}",
            f"{threads + 1}",
            more,
            "its threads are all in use, and there are cores to spare",
        )
    yield from _cores(situation, now, line)
    for each in situation.alternatives:
        if each.fast is not None:
            yield from line(
                f"models.{each.model}.mode",
                "exact",
                "fast",
                replace(now, scale=each.fast),
                "large JPEGs are decoded smaller, near the exact pixels (docs/recipes.md)",
            )
        if each.uint8 is not None:
            yield from line(
                f"input type of {situation.verdict.upstream} (models.{each.model}: sidecar recipe export)",
                "floats",
                "UINT8",
                replace(now, scale=each.uint8),
                "pixels go as bytes and the accelerator normalises them",
            )


def _cores(situation: Situation, now: Laws, line: _LineOf) -> Iterator[Line]:
    spell = situation.spell
    quota = spell.quota_cores
    if quota is not None and quota < spell.cores:
        yield from line(
            "resources.limits.cpu (the container's quota)",
            f"{quota:g}",
            f"{quota + 1:g}",
            replace(now, budget=now.budget + 1),
            f"the quota kept the sidecar from running {spell.throttled:.0%} of the time",
        )
    elif now.core_bound <= now.thread_bound:
        yield from line(
            "cores (resources.limits.cpu, or the node's)",
            f"{now.budget:g}",
            f"{now.budget + 1:g}",
            replace(
                now,
                cores=now.cores + 1,
                budget=now.budget + 1,
                threads={kind: threads + 1 for kind, threads in now.threads.items()},
            ),
            "the cores are full; a core more, and a thread more for it",
        )
    if not math.isfinite(now.ceiling) or now.ceiling <= now.items_per_s:
        return
    reaches = now.ceiling * (now.workers_s + now.front_s) / _SIZED_FOR
    if now.budget < reaches < math.inf:
        yield _plain(
            "cores, to reach the accelerator's ceiling",
            f"{now.budget:g}",
            f"{math.ceil(reaches)}",
            f"{reaches:.1f} would prepare the {situation.ceiling:.0f} rows/s that it can take, used to "
            f"{_SIZED_FOR:.0%}, once callers ask for as many",
        )
    # No more than those who ask now can ask for, however fast the accelerator is.
    wanted = min(now.ceiling, _askers(now, now))
    needed = wanted * (now.workers_s + now.front_s) / _SIZED_FOR
    if now.budget < needed < math.inf:
        whole = math.ceil(needed)
        yield from line(
            "cores, to keep the accelerator fed",
            f"{now.budget:g}",
            f"{whole}",
            replace(
                now,
                cores=max(now.cores, whole + now.others_s * wanted),
                budget=whole,
                threads={kind: max(each, whole) for kind, each in now.threads.items()},
            ),
            f"{needed:.1f} cores would prepare what it can take and callers ask for, used to {_SIZED_FOR:.0%}",
        )
