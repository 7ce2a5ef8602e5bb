"""What watching costs: one sidecar that watches and does not, in turn in short blocks (`verdict.enabled`, read anew).

CPU time is the front's, where all of it is spent, in pairs of blocks one after the other. It is one process, because
two that do the same differ by more than what is looked for (some 100 µs a request here, for as long as they live).
Workers do the same work whether anybody watches or not: what they take for it tells how fast the machine was in a
block, and both sides are told as if it had been as fast as usual, which takes a third off the noise. The figure is the
mean of the middle half of the pairs, with its standard error. A block is as long as it takes until accounts are settled
in the long run. What the watcher counts of its own time is told beside.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
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
from inference_client import Client, InvalidRequest

_BLOCK_S = 4.0
_PAIRS = 16
_SIZES = ("640x480", "1920x1080")
_PATIENCE_S = 10.0


def overhead(rounds: int) -> list[dict[str, Any]]:
    """A case a size. Raises CannotInstall where no Triton can run."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        running.enter_context(on_cores(CORES))
        triton, made, _ = running.enter_context(accelerators(folder))
        file = folder / "sidecar.yaml"
        file.write_text("{}")
        (port,) = free_ports(1)
        metrics = f"127.0.0.1:{port}"
        started = sidecar(triton.grpc_address, checkpoints(folder), str(file), **{"metrics.listen": metrics})
        server = running.enter_context(started)
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        made[PICTURES].take(0.5)
        ground = _Ground(server, file, metrics, loop)
        return [
            _case(size, ground.pairs(Load(PICTURES, photos(size), 8), _PAIRS * rounds)) for size in _SIZES
        ]


@dataclass(frozen=True, slots=True)
class _Side:
    """CPU microseconds of the front and of the workers a call, calls a second, and what the watcher counts of itself a
    call.
    """

    cpu_us: float
    workers_us: float
    rate: float
    own_us: float = 0.0


_Pair = tuple[_Side, _Side]


@dataclass(frozen=True, slots=True)
class _Ground:
    """A sidecar that reads its settings from this file."""

    server: Served
    file: Path
    metrics: str
    loop: asyncio.Runner

    def pairs(self, load: Load, count: int) -> list[_Pair]:
        """Watched and not, one after the other; after a block of each that is not counted."""
        found: list[_Pair] = []
        for number in range(-1, count):
            sides = {watched: self._side(load, watched=watched) for watched in _ORDERS[number % 2]}
            found += [(sides[True], sides[False])] if number >= 0 else []
        return found

    def _side(self, load: Load, *, watched: bool) -> _Side:
        self._watch(watched)
        own = _own_cpu(self.metrics) if watched else 0.0
        before = spent(self.server.pid)
        calls, took = self.loop.run(_block(self.server, load))
        after = spent(self.server.pid)
        own = _own_cpu(self.metrics) - own if watched else 0.0
        front, all_ = since(before, after, [self.server.pid]), since(before, after)
        return _Side(front / 1e3 / calls, (all_ - front) / 1e3 / calls, calls / took, own * 1e6 / calls)

    def _watch(self, watched: bool) -> None:
        """Has the sidecar watch or not; returns when it does as told."""
        self.file.write_text(f"verdict: {{enabled: {str(watched).lower()}}}\n")
        os.kill(self.server.pid, signal.SIGHUP)
        ends = time.monotonic() + _PATIENCE_S
        with Client(self.server.address) as client:
            while _watches(client) is not watched:
                if time.monotonic() > ends:
                    raise RuntimeError("the sidecar does not go by settings that are read anew")
                time.sleep(0.01)


_ORDERS = ((True, False), (False, True))


def _watches(client: Client) -> bool:
    try:
        client.verdict()
    except InvalidRequest:
        return False
    return True


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


def _case(size: str, pairs: Sequence[_Pair]) -> dict[str, Any]:
    usual = median([unwatched.workers_us for _, unwatched in pairs])
    cpu_us, error_us = middle(
        [
            (watched.cpu_us / watched.workers_us - unwatched.cpu_us / unwatched.workers_us) * usual
            for watched, unwatched in pairs
        ]
    )
    lost, error = middle(
        [
            1 - watched.rate * watched.workers_us / (unwatched.rate * unwatched.workers_us)
            for watched, unwatched in pairs
        ]
    )
    return {
        "case": f"watched and not, {size}",
        "kind": "overhead",
        "workers_us": round(usual, 1),
        "front_us": round(median([unwatched.cpu_us for _, unwatched in pairs]), 1),
        "calls_per_s": round(median([unwatched.rate for _, unwatched in pairs]), 1),
        "more_cpu_us": round(cpu_us, 2),
        "error_us": round(error_us, 2),
        "own_cpu_us": round(median([watched.own_us for watched, _ in pairs]), 2),
        "lost_throughput": round(lost, 5),
        "error_throughput": round(error, 5),
        "pairs": len(pairs),
    }


def _own_cpu(metrics: str) -> float:
    """Seconds that the watcher counts of itself."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("sidecar_watch_cpu_seconds_total "):
                return float(line.split()[1])
    raise RuntimeError("the sidecar does not tell what watching costs")
