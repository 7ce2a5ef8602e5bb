"""What the advice foretells of one thread more, beside what one thread more gives.

Sidecars that differ in their threads alone stand before the same model server, and are loaded in turn by callers in
closed loops, enough of them to keep every thread busy. The one with fewer threads is asked what one more would give
(where it says nothing of threads it foretells no gain); the one with more tells what it gave. Accelerators that take
no time, and one that is slower than two threads, for which no thread helps.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop
from grpc import aio
from multimodal.v1 import diagnostics_pb2, diagnostics_pb2_grpc

from bench.episodes.accelerator import Accelerator
from bench.episodes.callers import Load, Noted, call_on
from bench.episodes.plays import LOADS
from bench.episodes.stage import SPEECH, accelerators, checkpoints, sidecar
from bench.ground import Served
from bench.processes import on_cores
from bench.rig import CORES

_THREADS = (1, 2, 3)
_CALLERS = 8
_RUN_S, _WINDOW_S = 5.0, 3.5
_SLOW_MS = 12.0


@dataclass(frozen=True, slots=True)
class _Change:
    """A kind of load, and how long the accelerator takes."""

    media: str
    took_ms: float

    @property
    def load(self) -> Load:
        return replace(LOADS[self.media], callers=_CALLERS)

    @property
    def setting(self) -> str:
        return "threads.audio" if self.load.model == SPEECH else "threads.image"


_CHANGES = (
    _Change("1080p", 0.5),
    _Change("12 MP", 0.5),
    _Change("screenshot", 0.5),
    _Change("speech", 0.5),
    _Change("1080p", _SLOW_MS),
)


def what_if(rounds: int) -> list[dict[str, Any]]:
    """A case for every change of threads and round. Raises CannotInstall where no Triton can run."""
    cases = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        running.enter_context(on_cores(CORES))
        triton, made, _ = running.enter_context(accelerators(folder))
        recipes = checkpoints(folder)
        sidecars = {
            threads: running.enter_context(sidecar(triton.grpc_address, recipes, **_settings(threads)))
            for threads in _THREADS
        }
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for each in sidecars.values():
            loop.run(_loaded(each, _CHANGES[0], made))  # the first second of a sidecar is like no other
        for _ in range(rounds):
            for change in _CHANGES:
                there = {threads: loop.run(_loaded(each, change, made)) for threads, each in sidecars.items()}
                back = {
                    threads: loop.run(_loaded(each, change, made))
                    for threads, each in reversed(sidecars.items())
                }
                seen = {threads: _mean(there[threads], back[threads]) for threads in _THREADS}
                cases += [_case(change, threads, seen) for threads in _THREADS[:-1]]
    return cases


def _settings(threads: int) -> Mapping[str, str]:
    told = {"threads.image": threads, "threads.audio": threads, "workers.processes": threads}
    return {key: str(value) for key, value in told.items()}


async def _loaded(on: Served, change: _Change, made: Mapping[str, Accelerator]) -> tuple[float, float]:
    """Calls a second, and what one thread more is foretold to give; at the end of a run."""
    made[change.load.model].take(change.took_ms)
    noted, ends = Noted(), time.monotonic() + _RUN_S
    calls = asyncio.create_task(call_on(on.address, change.load, noted, lambda: time.monotonic() > ends))
    await asyncio.sleep(_RUN_S - 0.05)
    told = await _ask(on, change.load.model)
    await calls
    since = int((ends - _WINDOW_S) * 1e9)
    rate = sum(since < at < ends * 1e9 for at in noted.answered.values()) / _WINDOW_S
    lines = [line for line in told.advice if line.setting == change.setting]
    gain = lines[0].then_rows_per_s / lines[0].rows_per_s if lines else 1.0
    return rate, rate * gain


def _mean(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Of two runs, the same way there and back, so that a machine that becomes faster or slower is so for all alike."""
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


async def _ask(on: Served, upstream: str) -> diagnostics_pb2.UpstreamVerdict:
    async with aio.insecure_channel(on.address) as channel:
        request = diagnostics_pb2.VerdictRequest(window_s=_WINDOW_S, upstream=upstream)
        told = await diagnostics_pb2_grpc.DiagnosticsStub(channel).Verdict(request)
        verdict: diagnostics_pb2.UpstreamVerdict = told.upstreams[0]
        return verdict


def _case(change: _Change, threads: int, seen: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    (now, foretold), (measured, _) = seen[threads], seen[threads + 1]
    return {
        "case": f"{change.setting} {threads} to {threads + 1}, {change.media}, accelerator {change.took_ms:g} ms",
        "kind": "what if",
        "media": change.media,
        "threads": threads,
        "calls_per_s": round(now, 2),
        "foretold_per_s": round(foretold, 2),
        "measured_per_s": round(measured, 2),
        "error": round(abs(foretold - measured) / measured, 4),
    }
