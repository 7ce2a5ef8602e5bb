"""What the sandbox costs: the same sidecar with it and without it, in turn, on the same two cores.

Both run, and one is asked at a time: for icons, where what a job costs beside its work shows most, 1080p photographs,
and sound, which makes the most system calls. Every round starts both anew, for two processes of one kind differ by some
hundredths for as long as they live, and asks them in turn; it gives one ratio of calls a second and one of CPU time a
call, over all of a sidecar's processes. Figures are medians of the rounds' ratios, beside how far the middle half of
them reaches. No model server is needed: what is asked is Preprocess.

Calls a second are what the target is about. They are told beside CPU time, which other work on the machine disturbs
less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench.load import median, percentile
from bench.mix import KINDS, PICTURES, SOUNDS, media, preprocess_request
from bench.processes import on_cores, since, spent
from bench.report import at_most, report
from bench.rig import CORES, Load, laps
from bench.sidecars import CHECKPOINT, PREPROCESS
from sidecar.workers.sandbox.config import LAYERS
from testbed.sidecar import SidecarProcess, sidecar_process

ROUNDS = 9
# Of the clock, for each measurement; a round has so many of either sidecar, in turn.
SECONDS = 1.0
_TURNS = 4
MOST = 0.02
_MODES = _WITH, _WITHOUT = "optional", "off"
_KINDS: Mapping[str, str] = {kind.name: kind.model for kind in KINDS if kind.name != "12 MP"}


@dataclass(frozen=True, slots=True)
class _Found:
    """Calls a second, and CPU milliseconds a call."""

    calls_per_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class _Ground:
    """The two sidecars by the mode of their sandbox, and the loop of the load."""

    servers: Mapping[str, SidecarProcess]
    loop: asyncio.Runner

    def measured(self, mode: str, kind: str, count: int) -> _Found:
        """So many calls of one of them."""
        running = self.servers[mode]
        load = Load(running.address, PREPROCESS, _requests(kind))
        seconds, before, after = self.loop.run(load.closed(count, lambda: spent(running.pid)))
        return _Found(count / seconds, since(before, after) / count / 1e6)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """About six minutes."""
    found: dict[str, list[Mapping[str, _Found]]] = {kind: [] for kind in _KINDS}
    layers: Sequence[str] = ()
    for number in range(rounds):
        with _ground(_MODES if number % 2 else _MODES[::-1]) as ground:
            layers = _layers(ground.servers[_WITH].printed)
            for kind, so_far in found.items():
                so_far.append(_round(ground, kind))
    cases = [{**_case(kind, each), "layers": layers} for kind, each in found.items()]
    return report("sandbox", cases, targets(cases))


def targets(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the cases must reach, the worst of them."""
    return [
        at_most("throughput that the sandbox costs", max(case["throughput_lost"] for case in cases), MOST),
        at_most("CPU time that it adds to a call", max(case["cpu_added"] for case in cases), MOST),
    ]


@contextmanager
def _ground(modes: Sequence[str]) -> Iterator[_Ground]:
    with ExitStack() as running:
        running.enter_context(on_cores(CORES))
        servers = {
            mode: running.enter_context(sidecar_process({"sandbox.mode": f"'{mode}'", **_settings()}))
            for mode in modes
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


def _round(ground: _Ground, kind: str) -> Mapping[str, _Found]:
    """What one start of both gave, by the mode."""
    lap = len(_requests(kind))
    rate = ground.measured(_WITHOUT, kind, 4 * lap).calls_per_s
    ground.measured(_WITH, kind, 4 * lap)  # as warm as the other
    count = laps(rate * SECONDS, lap)
    found: dict[str, list[_Found]] = {mode: [] for mode in _MODES}
    for turn in range(_TURNS):
        for mode in _MODES if turn % 2 else _MODES[::-1]:
            found[mode].append(ground.measured(mode, kind, count))
    return {
        mode: _Found(median([one.calls_per_s for one in each]), median([one.cpu_ms for one in each]))
        for mode, each in found.items()
    }


def _case(kind: str, found: Sequence[Mapping[str, _Found]]) -> dict[str, Any]:
    lost = [1 - each[_WITH].calls_per_s / each[_WITHOUT].calls_per_s for each in found]
    added = [each[_WITH].cpu_ms / each[_WITHOUT].cpu_ms - 1 for each in found]
    return {
        "case": f"{kind}, Preprocess",
        "kind": "sandbox",
        "throughput_lost": round(median(lost), 4),
        "throughput_lost_middle_half": [round(percentile(lost, part), 4) for part in (25, 75)],
        "cpu_added": round(median(added), 4),
        "cpu_added_middle_half": [round(percentile(added, part), 4) for part in (25, 75)],
        "calls_per_s": round(median([each[_WITH].calls_per_s for each in found]), 1),
        "cpu_ms": round(median([each[_WITH].cpu_ms for each in found]), 3),
        "rounds": len(found),
    }
