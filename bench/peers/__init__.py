"""The sidecar beside what a user would pick instead: same machine, same pictures, same recipe.

1080p JPEGs become the tensor that `transformers`' PIL processor makes of them for CLIP (224x224), which a model
takes: a sink in the real Triton for the sidecar and for Triton's ensemble, a summary in process for the others,
so that every answer is small. What each contender makes of every picture is checked before it is measured.

Everything runs on two cores, and so does the load: one process, whose requests are laid beforehand. CPU time is
that of all processes of a contender, Triton's where it delivers to one, without the load's.

First each variant of a peer has a short trial, and the one with the most images a second goes on. Then all are up
at once and take turns, in alternating order: closed loops for images per CPU-second and images a second; then open
loops in exact mode (Poisson, the same schedule for all, latencies from the scheduled moment) at 70 % of
the best peer's rate, and at 70 % of each one's own. Figures are medians of the rounds. At last each peer runs with
pillow-simd in Pillow's place, whose pixels differ a little; no target is held against those rows.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from itertools import product
from typing import Any

import uvloop

from bench.load import Latencies, closed_loop, median, open_loop, percentile, poisson
from bench.peers.contenders import HOME, OURS, PEERS, SIMD, Contender, Running
from bench.peers.judge import SIMD_TOLERANCE, TOLERANCE, Judge
from bench.photos import photos
from bench.processes import on_cores, since, spent
from bench.report import at_least, at_most, report
from bench.rig import CORES, laps
from bench.servers.preprocess import MODES
from testbed.install import HOME as INSTALLED
from testbed.install import install

SIZE = "1920x1080"
ROUNDS = 5
SIMD_ROUNDS = 3
IN_FLIGHT = 6
SECONDS = 2.5
LATENCY_SECONDS = 5.0
LOAD = 0.7
"""Of a rate that closed loops found."""

_THROUGHPUT = {"images_per_cpu_s": 2, "images_per_s": 2}
_LATENCY = {"p50_ms": 2, "p99_ms": 2, "lag_p99_ms": 3}
"""Figures, and the decimals that they are told with."""

_LOADS = ("common", "own")
"""70 % of the best peer's rate, and 70 % of each one's own."""

_PACKAGES = (
    "nvidia-pytriton",
    "kserve",
    "litserve",
    "mlserver",
    "pillow",
    "numpy",
    "grpcio",
    "uvloop",
    "uvicorn",
)


@dataclass(slots=True)
class _Field:
    """The loop that loads, the pictures, and what was found: a value a round, by contender, place and figure."""

    loop: asyncio.Runner
    pictures: Sequence[bytes]
    found: defaultdict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def told(self, name: str, place: str, figures: Mapping[str, int]) -> dict[str, float]:
        """The medians of these figures, rounded."""
        return {
            each: round(median(self.found[name, place, each]), digits) for each, digits in figures.items()
        }

    def closed(self, name: str, running: Running, mode: str) -> None:
        """A closed loop of some seconds."""
        count, cpu_s, taken_s = self.loop.run(self._closed(running, mode))
        self.found[name, mode, "images_per_cpu_s"].append(count / cpu_s)
        self.found[name, mode, "images_per_s"].append(count / taken_s)

    async def _closed(self, running: Running, mode: str) -> tuple[int, float, float]:
        route, lap = running.measured[mode], len(self.pictures)
        async with route.connect([route.lay(data) for data in self.pictures]) as call:
            await closed_loop(call, IN_FLIGHT, lap)
            count = laps(lap / await closed_loop(call, IN_FLIGHT, lap) * SECONDS, lap)
            before = spent(*running.roots)
            taken_s = await closed_loop(call, IN_FLIGHT, count)
            return count, since(before, spent(*running.roots)) / 1e9, taken_s

    def open(self, name: str, running: Running, place: str, schedule: Sequence[float]) -> None:
        """An open loop in exact mode."""
        found = self.loop.run(self._open(running, schedule))
        self.found[name, place, "p50_ms"].append(percentile(found.taken_s, 50) * 1e3)
        self.found[name, place, "p99_ms"].append(percentile(found.taken_s, 99) * 1e3)
        self.found[name, place, "lag_p99_ms"].append(percentile(found.lag_s, 99) * 1e3)

    async def _open(self, running: Running, schedule: Sequence[float]) -> Latencies:
        route = running.measured["exact"]
        async with route.connect([route.lay(data) for data in self.pictures]) as call:
            await closed_loop(call, IN_FLIGHT, len(self.pictures))
            return await open_loop(call, schedule)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures all that is installed, about ten minutes.

    Raises CannotInstall where no Triton can run, and WrongPixels where a contender does other work than the rest.
    """
    install()
    there = [peer for peer in PEERS if peer.is_there]
    with on_cores(CORES), asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        ground = _Field(loop, photos(SIZE))
        judge = Judge(loop, ground.pictures)
        trials = [_trial(ground, judge, peer, variant) for peer in there for variant in peer.variants]
        chosen = {OURS.name: next(iter(OURS.variants)), **{peer.name: _best(trials, peer) for peer in there}}
        cases, common = _compare(ground, judge, [OURS, *there], chosen, rounds)
        simd = [row for peer in there if SIMD.is_dir() for row in _with_simd(ground, judge, peer, chosen)]
    absent = [
        {"case": f"{peer.name}: not installed", "kind": "absent"} for peer in PEERS if peer not in there
    ]
    return {
        **report("peers", [*cases, *trials, *simd, *absent], targets(cases)),
        "load": {"picture": f"JPEG {SIZE} to 224", "common_per_s": round(common, 1), "in_flight": IN_FLIGHT},
        "installed": {peer.name: versions(peer.package) for peer in there},
    }


def _trial(ground: _Field, judge: Judge, peer: Contender, variant: str) -> dict[str, Any]:
    """A variant alone, in exact mode."""
    name = f"{peer.name}, {variant}"
    with peer.variants[variant](False) as running:
        judge.check(name, running, TOLERANCE)
        ground.closed(name, running, "exact")
    case = {"case": f"{name}, trial", "kind": "trial", "contender": peer.name, "variant": variant}
    return {**case, **ground.told(name, "exact", _THROUGHPUT)}


def _best(trials: Sequence[dict[str, Any]], peer: Contender) -> str:
    """The variant with the most images a second."""
    own = [each for each in trials if each["contender"] == peer.name]
    return str(max(own, key=lambda each: float(each["images_per_s"]))["variant"])


def _compare(
    ground: _Field, judge: Judge, contenders: Sequence[Contender], chosen: Mapping[str, str], rounds: int
) -> tuple[list[dict[str, Any]], float]:
    """All of them in turns: a case for each in each mode, and the rate of the load that they had in common."""
    with ExitStack() as up:
        running = {
            each.name: up.enter_context(each.variants[chosen[each.name]](False)) for each in contenders
        }
        off = {name: judge.check(name, each, TOLERANCE) for name, each in running.items()}
        turns = list(running.items())
        for number, mode in product(range(rounds), MODES):
            for name, each in reversed(turns) if number % 2 else turns:
                ground.closed(name, each, mode)
        rates = {name: median(ground.found[name, "exact", "images_per_s"]) for name in running}
        common = LOAD * max(
            (rate for name, rate in rates.items() if name != OURS.name), default=rates[OURS.name]
        )
        for number in range(rounds):
            for name, each in reversed(turns) if number % 2 else turns:
                ground.open(name, each, "common", poisson(common, LATENCY_SECONDS, number))
                ground.open(name, each, "own", poisson(LOAD * rates[name], LATENCY_SECONDS, number))
        commands = {name: each.command for name, each in running.items()}
    cases = []
    for name, mode in product(running, MODES):
        case: dict[str, Any] = {"case": f"{name}, {mode}", "kind": "contender"}
        case |= {"contender": name, "mode": mode}
        case |= {"variant": chosen[name], "command": commands[name], "off_by": off[name][mode]}
        case |= ground.told(name, mode, _THROUGHPUT)
        for place in _LOADS if mode == "exact" else ():
            case |= {f"{place}_{key}": value for key, value in ground.told(name, place, _LATENCY).items()}
        cases.append(case)
    return cases, common


def _with_simd(
    ground: _Field, judge: Judge, peer: Contender, chosen: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The peer's best variant with pillow-simd, alone."""
    name = f"{peer.name} with pillow-simd"
    with peer.variants[chosen[peer.name]](True) as running:
        off = judge.check(name, running, SIMD_TOLERANCE)
        for _, mode in product(range(SIMD_ROUNDS), MODES):
            ground.closed(name, running, mode)
    return [
        {
            "case": f"{name}, {mode}",
            "kind": "simd",
            "contender": peer.name,
            "mode": mode,
            "variant": chosen[peer.name],
            "off_by": off[mode],
            **ground.told(name, mode, _THROUGHPUT),
        }
        for mode in MODES
    ]


def targets(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ours must reach beside the best peer of each figure; nothing where there is no peer."""
    compared = [case for case in cases if case["kind"] == "contender"]
    ours = {case["mode"]: case for case in compared if case["contender"] == OURS.name}
    theirs = {
        mode: [case for case in compared if case["mode"] == mode and case["contender"] != OURS.name]
        for mode in MODES
    }
    if not all(theirs.values()):
        return []

    def times(mode: str) -> float:
        best = max(float(case["images_per_cpu_s"]) for case in theirs[mode])
        return round(float(ours[mode]["images_per_cpu_s"]) / best, 3)

    quickest = min(float(case["common_p99_ms"]) for case in theirs["exact"])
    p99 = round(float(ours["exact"]["common_p99_ms"]) / quickest, 3)
    return [
        at_least("images per CPU-second ÷ the best peer's, exact", times("exact"), 2.2),
        at_least("images per CPU-second ÷ the best peer's, scaled decode", times("scaled"), 1.8),
        at_most("p99 ÷ the best peer's, at 70 % of the best peer's rate, exact", p99, 0.5),
    ]


def versions(package: str) -> dict[str, str]:
    """The versions in a peer's environment, of the packages that matter to the figures."""
    places = [str(place) for place in (HOME / package).glob("lib/python*/site-packages")]
    if package == "triton":
        places.append(str(INSTALLED / "wheels"))
    found = {
        each.name.lower().replace("_", "-"): each.version for each in metadata.distributions(path=places)
    }
    return {name: found[name] for name in _PACKAGES if name in found}
