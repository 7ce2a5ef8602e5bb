"""What watching costs: the same sidecar with `verdict.enabled` and without, loaded in turn in short blocks.

CPU time is the front's, where all of it is spent, in pairs of blocks one after the other, so that a slow spell of the
machine is both sides'. What the watcher counts of its own time is told beside.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from bench.episodes.callers import Load, Noted, call_on
from bench.episodes.stage import PICTURES, accelerators, checkpoints, sidecar
from bench.ground import Served
from bench.load import median
from bench.photos import photos
from bench.processes import free_ports, on_cores, since, spent
from bench.rig import CORES

_BLOCK_S = 2.0
_PAIRS = 8
_SIZES = ("640x480", "1920x1080")


def overhead(rounds: int) -> list[dict[str, Any]]:
    """A case a size. Raises CannotInstall where no Triton can run."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        running.enter_context(on_cores(CORES))
        triton, made, _ = running.enter_context(accelerators(folder))
        recipes = checkpoints(folder)
        (port,) = free_ports(1)
        metrics = f"127.0.0.1:{port}"
        watched, unwatched = (
            running.enter_context(sidecar(triton.grpc_address, recipes, **more))
            for more in ({"metrics.listen": metrics}, {"verdict.enabled": "false"})
        )
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        made[PICTURES].take(0.5)
        cases = []
        for size in _SIZES:
            load = Load(PICTURES, photos(size), 8)
            for each in (watched, unwatched):
                loop.run(_block(each, load))
            before, counted = _own_cpu(metrics), 0
            pairs = []
            for number in range(_PAIRS * rounds):
                order = (watched, unwatched) if number % 2 else (unwatched, watched)
                found = {each.pid: loop.run(_block(each, replace(load))) for each in order}
                counted += found[watched.pid][2]
                pairs.append((found[watched.pid], found[unwatched.pid]))
            cases.append(_case(size, pairs, (_own_cpu(metrics) - before) / counted * 1e6))
    return cases


async def _block(on: Served, load: Load) -> tuple[float, float, int]:
    """CPU microseconds of the front a call, calls a second, and calls."""
    noted, ends = Noted(), time.monotonic() + _BLOCK_S
    before, begun = spent(on.pid), time.monotonic()
    await call_on(on.address, load, noted, lambda: time.monotonic() > ends)
    took = time.monotonic() - begun
    calls = len(noted.answered)
    return since(before, spent(on.pid), [on.pid]) / calls / 1e3, calls / took, calls


def _case(
    size: str, pairs: list[tuple[tuple[float, float, int], tuple[float, float, int]]], own_us: float
) -> dict[str, Any]:
    cpu_us = median([watched[0] - unwatched[0] for watched, unwatched in pairs])
    lost = median([1 - watched[1] / unwatched[1] for watched, unwatched in pairs])
    return {
        "case": f"watched and not, {size}",
        "kind": "overhead",
        "front_us": round(median([unwatched[0] for _, unwatched in pairs]), 1),
        "calls_per_s": round(median([unwatched[1] for _, unwatched in pairs]), 1),
        "more_cpu_us": round(cpu_us, 2),
        "own_cpu_us": round(own_us, 2),
        "lost_throughput": round(lost, 5),
        "pairs": len(pairs),
    }


def _own_cpu(metrics: str) -> float:
    """Seconds that the watcher counts of itself."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("sidecar_watch_cpu_seconds_total "):
                return float(line.split()[1])
    raise RuntimeError("the sidecar does not tell what watching costs")
