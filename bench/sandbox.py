"""What the sandbox costs: the same sidecar with it and without it, in turn, on the same two cores.

Both run all the while, and one is asked at a time: for icons, where what a job costs beside its work shows most, 1080p
photographs, and sound, which makes the most system calls. Every round asks both, in alternating order, and gives one
ratio of calls a second and one of CPU time a call, over all of a sidecar's processes; figures are medians of the
rounds' ratios. No model server is needed: what is asked is Preprocess.

Calls a second are what the target is about. They are told beside CPU time, which other work on the machine disturbs
less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench.load import median
from bench.mix import KINDS, PICTURES, SOUNDS, media, preprocess_request
from bench.processes import on_cores, since, spent
from bench.report import at_most, report
from bench.rig import CORES, Load, laps
from bench.sidecars import CHECKPOINT, PREPROCESS
from sidecar.workers.sandbox.config import LAYERS
from testbed.sidecar import SidecarProcess, sidecar_process

ROUNDS = 15
# Of the clock, for each of a round's two measurements.
SECONDS = 2.0
MOST = 0.02
_WITH, _WITHOUT = "optional", "off"
_KINDS: Mapping[str, str] = {kind.name: kind.model for kind in KINDS if kind.name != "12 MP"}


@dataclass(frozen=True, slots=True)
class _Ground:
    """The two sidecars by the mode of their sandbox, and the loop of the load."""

    servers: Mapping[str, SidecarProcess]
    loop: asyncio.Runner

    def measured(self, mode: str, kind: str, count: int) -> tuple[float, float]:
        """Calls a second, and CPU milliseconds a call."""
        running = self.servers[mode]
        load = Load(running.address, PREPROCESS, _requests(kind))
        seconds, before, after = self.loop.run(load.closed(count, lambda: spent(running.pid)))
        return count / seconds, since(before, after) / count / 1e6


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """About three minutes."""
    with _ground() as ground:
        layers = _layers(ground.servers[_WITH].printed)
        cases = [_case(ground, kind, rounds) for kind in _KINDS]
    for case in cases:
        case["layers"] = layers
    return report("sandbox", cases, targets(cases))


def targets(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the cases must reach, the worst of them."""
    return [
        at_most("throughput that the sandbox costs", max(case["throughput_lost"] for case in cases), MOST),
        at_most("CPU time that it adds to a call", max(case["cpu_added"] for case in cases), MOST),
    ]


@contextmanager
def _ground() -> Iterator[_Ground]:
    with ExitStack() as running:
        running.enter_context(on_cores(CORES))
        servers = {
            mode: running.enter_context(sidecar_process({"sandbox.mode": f"'{mode}'", **_settings()}))
            for mode in (_WITH, _WITHOUT)
        }
        yield _Ground(servers, running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop)))


def _settings() -> Mapping[str, str]:
    return {
        "workers.processes": "2",
        "threads.image": "2",
        "cache.enabled": "false",
        f"models.{PICTURES}.recipe": str(CHECKPOINT),
        f"models.{SOUNDS}.recipe": str(CHECKPOINT.parent / "whisper-tiny"),
    }


def _requests(kind: str) -> Sequence[bytes]:
    return [preprocess_request(_KINDS[kind], data) for data in media()[kind]]


def _layers(printed: Path) -> list[str]:
    """The layers that the log tells of as applied."""
    line = next(line for line in printed.read_text().splitlines() if "sandbox: " in line)
    applied = line.partition("sandbox: ")[2].partition(";")[0]
    return [name for name in LAYERS if name in applied]


def _case(ground: _Ground, kind: str, rounds: int) -> dict[str, Any]:
    lap = len(_requests(kind))
    rate, _ = ground.measured(_WITHOUT, kind, 4 * lap)
    count = laps(rate * SECONDS, lap)
    found: list[dict[str, tuple[float, float]]] = []
    for number in range(rounds):
        modes = (_WITH, _WITHOUT) if number % 2 else (_WITHOUT, _WITH)
        found.append({mode: ground.measured(mode, kind, count) for mode in modes})

    def middle(figure: Callable[[Mapping[str, tuple[float, float]]], float]) -> float:
        return median([figure(each) for each in found])

    return {
        "case": f"{kind}, Preprocess",
        "kind": "sandbox",
        "throughput_lost": round(1 - middle(lambda each: each[_WITH][0] / each[_WITHOUT][0]), 4),
        "cpu_added": round(middle(lambda each: each[_WITH][1] / each[_WITHOUT][1]) - 1, 4),
        "calls_per_s": round(middle(lambda each: each[_WITH][0]), 1),
        "cpu_ms": round(middle(lambda each: each[_WITH][1]), 3),
        "rounds": rounds,
        "calls_a_round": count,
    }
