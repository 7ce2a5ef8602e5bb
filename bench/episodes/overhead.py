"""What watching costs: the same sidecar with `verdict.enabled` and without, loaded in turn in short blocks.

CPU time is the front's, where all of it is spent, in pairs of blocks one after the other, so that a slow spell of the
machine is both sides'. Either front's is read over the whole of a pair: what watching leaves for when the load is gone
counts too. The figure is the mean of the middle half of the pairs, with its standard error: pairs differ by more than
what is looked for. What the watcher counts of its own time is told beside.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bench.episodes.callers import Load, Noted, call_on
from bench.episodes.stage import PICTURES, accelerators, checkpoints, sidecar
from bench.ground import Served
from bench.load import median
from bench.photos import photos
from bench.processes import free_ports, on_cores, since, spent
from bench.rig import CORES

_BLOCK_S = 2.0
_PAIRS = 24
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
                pairs.append(_pair(loop, order, load, watched))
                counted += pairs[-1][0].calls
            cases.append(_case(size, pairs, (_own_cpu(metrics) - before) / counted * 1e6))
    return cases


@dataclass(frozen=True, slots=True)
class _Side:
    """CPU microseconds of a front a call, calls a second, and calls."""

    cpu_us: float
    rate: float
    calls: int


def _pair(
    loop: asyncio.Runner, order: tuple[Served, Served], load: Load, watched: Served
) -> tuple[_Side, _Side]:
    """A block of each, in this order; the one that is watched first."""
    pids = [each.pid for each in order]
    before = spent(*pids)
    done = {each.pid: loop.run(_block(each, load)) for each in order}
    after = spent(*pids)
    first, second = (
        _Side(since(before, after, [pid]) / 1e3 / calls, calls / took, calls)
        for pid, (calls, took) in done.items()
    )
    return (first, second) if order[0] is watched else (second, first)


async def _block(on: Served, load: Load) -> tuple[int, float]:
    """Calls, and the seconds that they took together."""
    noted, ends = Noted(), time.monotonic() + _BLOCK_S
    begun = time.monotonic()
    await call_on(on.address, load, noted, lambda: time.monotonic() > ends)
    return len(noted.answered), time.monotonic() - begun


def middle(values: Sequence[float]) -> tuple[float, float]:
    """The mean of the middle half, and its standard error (Tukey and McLaughlin 1963: winsorized deviation over the
    part that is kept and the root of the number).
    """
    ordered = np.sort(np.array(values, float))
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    winsorized = np.clip(ordered, kept[0], kept[-1])
    error = winsorized.std(ddof=1) / (len(kept) / len(ordered) * math.sqrt(len(ordered)))
    return float(kept.mean()), float(error)


def _case(size: str, pairs: Sequence[tuple[_Side, _Side]], own_us: float) -> dict[str, Any]:
    cpu_us, error_us = middle([watched.cpu_us - unwatched.cpu_us for watched, unwatched in pairs])
    lost, _ = middle([1 - watched.rate / unwatched.rate for watched, unwatched in pairs])
    return {
        "case": f"watched and not, {size}",
        "kind": "overhead",
        "front_us": round(median([unwatched.cpu_us for _, unwatched in pairs]), 1),
        "calls_per_s": round(median([unwatched.rate for _, unwatched in pairs]), 1),
        "more_cpu_us": round(cpu_us, 2),
        "error_us": round(error_us, 2),
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
