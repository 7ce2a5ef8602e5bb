"""Admission without a server: `Turns` before so many servers, in simulated time. For work on policies, and fast tests.

Poisson arrivals of a mix of kinds, costs that differ from what was foretold by a lognormal factor, callers who
leave at their deadline if their item has not begun, and come back when refused where they are told to. Nothing is
real but the policy; so the front's own work, the memory and the model server are not in it, and what is found here is
an upper bound of what a server can do. `python -m bench.simulate` prints the table.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bench.load import percentile
from bench.policies import POLICIES
from sidecar.media import Cost, Modality
from sidecar.stages.admit.lanes import Lanes, LanesConfig
from sidecar.stages.admit.turns import Asker, Drop, Priority, Turns, Verdict, Work

OURS = "lanes"


def ours(servers: int) -> Turns:
    """Our own rules, as they are by default."""
    return Lanes(LanesConfig(), servers)


TurnsFactory = Callable[[int], Turns]
"""Makes a policy for so many servers."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: how many of all (relative), milliseconds of one core foretold, seconds until its deadline."""

    name: str
    share: float
    cpu_ms: float
    deadline_s: float
    modality: Modality = Modality.IMAGE
    tenant: str = ""
    priority: Priority = Priority.INTERACTIVE
    bytes: int = 100_000


MIX = (
    Kind("icon", 0.60, 1.5, 0.25, bytes=10_000),
    Kind("1080p", 0.30, 10.0, 0.5, bytes=400_000),
    Kind("12 MP", 0.08, 55.0, 1.0, bytes=3_000_000),
    Kind("audio", 0.02, 150.0, 2.0, Modality.AUDIO, bytes=2_000_000),
)
"""The overload benchmark's, with costs (front's and worker's) as they were measured on a cloud Xeon."""

STUDY = (
    Kind("small", 0.90, 5.0, 0.25, bytes=10_000),
    Kind("middle", 0.08, 50.0, 0.5, bytes=400_000),
    Kind("large", 0.02, 500.0, 2.0, bytes=3_000_000),
)
"""The spread of the design study: 5, 50 and 500 ms."""

Loads = Sequence[tuple[float, float]]
"""Seconds and load, one behind another; a load is a multiple of what the servers can do."""

_NS = 1_000_000_000


@dataclass(slots=True)
class Sent:
    """A request and what became of it. Seconds of simulated time; `done_s` None: never answered well."""

    kind: Kind
    due_s: float
    work: Work
    cpu_ms: float
    attempts: int = 0
    state: str = ""
    done_s: float | None = None

    @property
    def met(self) -> bool:
        """Whether it was answered by its deadline."""
        return self.done_s is not None and self.done_s <= self.due_s + self.kind.deadline_s


@dataclass(frozen=True, slots=True)
class KindOutcome:
    """Of one kind: requests, the share of them that met the deadline, seconds of those that did, refused."""

    count: int
    met: float
    p50_s: float
    p99_s: float
    refused: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stretch of simulated time came to. Shares are of 1.

    `goodput` is core time spent on requests that met their deadline over what all servers had, `wasted` on those
    that did not; `met` the share of requests, by the mix, in their deadlines. `broken` is the share of requests that
    were let in and not answered in time. `tenants` is core seconds by tenant.
    """

    goodput: float
    wasted: float
    met: float
    broken: float
    kinds: Mapping[str, KindOutcome]
    tenants: Mapping[str, float]

    @property
    def small(self) -> KindOutcome:
        """The first kind of the mix, which is the smallest."""
        return next(iter(self.kinds.values()))


def simulate(
    turns_factory: TurnsFactory,
    load: float | Loads,
    servers: int = 2,
    seed: int = 0,
    sigma: float = 0.25,
    *,
    seconds: float = 20.0,
    mix: Sequence[Kind] = MIX,
    attempts: int = 1,
    warm_s: float = 1.0,
) -> Outcome:
    """Runs a policy and tells what became of all that was due after `warm_s`.

    `load` is a multiple of what the servers can do, for `seconds`, or stretches of (seconds, load). `sigma` is the
    deviation of the logarithm of actual over foretold cost, `attempts` how often a refused caller tries in all.
    """
    loads = [(seconds, load)] if isinstance(load, int | float) else list(load)
    sent = play(turns_factory, loads, servers, seed, sigma, mix=mix, attempts=attempts)
    return outcome(sent, servers, warm_s, sum(length for length, _ in loads))


def play(
    turns_factory: TurnsFactory,
    loads: Loads,
    servers: int = 2,
    seed: int = 0,
    sigma: float = 0.25,
    *,
    mix: Sequence[Kind] = MIX,
    attempts: int = 1,
) -> list[Sent]:
    """Every request, and what became of it; `outcome` sums up any stretch of them."""
    requests = list(_requests(loads, servers, seed, sigma, mix))
    _Machine(turns_factory(servers), servers, attempts, seed).run(requests)
    return requests


def outcome(sent: Sequence[Sent], servers: int, start_s: float, end_s: float) -> Outcome:
    """Sums up what was due from `start_s` to `end_s`."""
    due = [each for each in sent if start_s <= each.due_s < end_s]
    capacity_ms = servers * (end_s - start_s) * 1e3
    begun = [each for each in due if each.state == "ended"]
    tenants: dict[str, float] = {}
    for each in begun:
        tenants[each.kind.tenant] = tenants.get(each.kind.tenant, 0.0) + each.cpu_ms / 1e3
    kinds = dict.fromkeys(each.kind for each in sent)
    return Outcome(
        goodput=sum(each.cpu_ms for each in begun if each.met) / capacity_ms,
        wasted=sum(each.cpu_ms for each in begun if not each.met) / capacity_ms,
        met=_share(due, lambda each: each.met),
        broken=_share(due, lambda each: each.state != "refused" and not each.met),
        kinds={
            kind.name: _of_kind([each for each in due if each.kind is kind])
            for kind in sorted(kinds, key=lambda kind: kind.cpu_ms)
        },
        tenants=tenants,
    )


def _of_kind(sent: Sequence[Sent]) -> KindOutcome:
    taken = [each.done_s - each.due_s for each in sent if each.done_s is not None and each.met]
    return KindOutcome(
        count=len(sent),
        met=_share(sent, lambda each: each.met),
        p50_s=percentile(taken, 50) if taken else float("nan"),
        p99_s=percentile(taken, 99) if taken else float("nan"),
        refused=_share(sent, lambda each: each.state == "refused"),
    )


def _share(sent: Sequence[Sent], what: Callable[[Sent], bool]) -> float:
    return sum(map(what, sent)) / len(sent) if sent else float("nan")


def _requests(loads: Loads, servers: int, seed: int, sigma: float, mix: Sequence[Kind]) -> Iterator[Sent]:
    """In order of time. The costs drawn have the mean that the load is reckoned by, whatever `sigma`."""
    draws = np.random.default_rng([seed, 5])
    shares = np.array([kind.share for kind in mix]) / sum(kind.share for kind in mix)
    mean_ms = sum(share * kind.cpu_ms for share, kind in zip(shares, mix, strict=True))
    start_s = 0.0
    for length_s, load in loads:
        rate = load * servers * 1e3 / mean_ms
        at_s = start_s + draws.exponential(1 / rate)
        while at_s < start_s + length_s:
            kind = mix[int(draws.choice(len(mix), p=shares))]
            cpu_ms = kind.cpu_ms * float(np.exp(sigma * draws.standard_normal() - sigma**2 / 2))
            asker = Asker(
                kind.modality, kind.name, kind.tenant, kind.priority, int((at_s + kind.deadline_s) * _NS)
            )
            work = Work(asker, Cost(kind.cpu_ms, 0), kind.bytes)
            yield Sent(kind, float(at_s), work, cpu_ms)
            at_s += draws.exponential(1 / rate)
        start_s += length_s


@dataclass(order=True, slots=True)
class _Event:
    at_ns: int
    number: int
    what: Callable[[int], None] = field(compare=False)


class _Machine:
    """The servers, the clock and the callers."""

    def __init__(self, turns: Turns, servers: int, attempts: int, seed: int) -> None:
        self._turns = turns
        self._free = servers
        self._attempts = attempts
        self._draws = np.random.default_rng([seed, 11])
        self._events: list[_Event] = []
        self._numbers = itertools.count()
        self._of: dict[Work, Sent] = {}

    def run(self, requests: Sequence[Sent]) -> None:
        for each in requests:
            self._at(each.due_s * _NS, partial(self._arrive, each))
        while self._events:
            event = heapq.heappop(self._events)
            event.what(event.at_ns)

    def _at(self, at_ns: float, what: Callable[[int], None]) -> None:
        heapq.heappush(self._events, _Event(int(at_ns), next(self._numbers), what))

    def _arrive(self, sent: Sent, now_ns: int) -> None:
        sent.attempts += 1
        deadline_ns = sent.work.asker.deadline_ns or 0
        refusal = self._turns.full(sent.work.asker, 1, now_ns)
        verdict = Verdict(0.0, refusal) if refusal else self._turns.judge([sent.work], now_ns)
        if verdict.refusal is not None:
            sent.state = "refused"
            again = verdict.refusal.retry_after_s
            if again is not None and sent.attempts < self._attempts and now_ns + again * _NS < deadline_ns:
                self._at(now_ns + again * _NS, partial(self._arrive, sent))
            return
        sent.state = "waits"
        sent.work.promised_s = verdict.wait_s
        self._of[sent.work] = sent
        self._turns.join(sent.work, now_ns)
        self._at(deadline_ns, partial(self._give_up, sent))
        self._begin(now_ns)

    def _give_up(self, sent: Sent, now_ns: int) -> None:
        if sent.state == "waits":
            sent.state = "left"
            self._turns.leave(sent.work, now_ns)
            self._begin(now_ns)

    def _begin(self, now_ns: int) -> None:
        """As the gate does: an item is begun, or dropped, which needs no server."""
        drop: Drop | None = None

        def may(work: Work) -> bool:
            nonlocal drop
            drop = self._turns.drop(work, now_ns)
            return drop is not None or self._free > 0

        while (work := self._turns.begin(now_ns, may)) is not None:
            sent = self._of.pop(work)
            if drop is not None:
                sent.state = "dropped"
                self._turns.ended(work, 0.0, now_ns)
                continue
            sent.state = "runs"
            self._free -= 1
            self._at(now_ns + sent.cpu_ms * 1e6, partial(self._end, sent))

    def _end(self, sent: Sent, now_ns: int) -> None:
        sent.state, sent.done_s = "ended", now_ns / _NS
        self._free += 1
        self._turns.ended(sent.work, sent.cpu_ms, now_ns)
        self._begin(now_ns)


def main(arguments: Sequence[str]) -> None:
    """Prints what each policy comes to: the mean of five seeds. Arguments are servers, then sigma."""
    servers = int(arguments[0]) if arguments else 2
    sigma = float(arguments[1]) if len(arguments) > 1 else 0.25
    for name, factory in [*POLICIES.items(), (OURS, ours)]:
        for load in (0.5, 0.9, 1.0, 2.0, 4.0):
            found = [simulate(factory, load, servers, seed, sigma) for seed in range(5)]
            kinds = " ".join(
                f"{kind} {np.mean([each.kinds[kind].met for each in found]):4.0%}" for kind in found[0].kinds
            )
            print(  # noqa: T201 - a command's output
                f"{name:10} {load:3.1f}x  work {np.mean([each.goodput for each in found]):6.1%}  "
                f"wasted {np.mean([each.wasted for each in found]):5.1%}  "
                f"met {np.mean([each.met for each in found]):6.1%}  "
                f"broken {np.mean([each.broken for each in found]):5.1%}  "
                f"small p99 {np.mean([each.small.p99_s for each in found]) * 1e3:5.0f} ms  {kinds}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
