"""How good is the plan by itself? The default beside every other static plan, for pictures, sound, and both at once.

One server before a real Triton whose models take next to no time, callers in closed loops on the same two cores. The
plan is moved while it runs, as anyone may move it (`Diagnostics.SetThreadPlan`); each other plan is measured between
two runs of the default, so that a machine that becomes faster or slower is so for both. The figure is the default's
work by the best plan's; work of a mix is counted in parts of what the machine does of each kind alone, so that no kind
counts for more because its items are small.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from bench.episodes.accelerator import Accelerator
from bench.episodes.callers import Load, Noted, call_on
from bench.episodes.plays import LOADS
from bench.episodes.stage import accelerators, checkpoints, sidecar
from bench.ground import Served
from bench.load import median
from bench.processes import on_cores
from bench.report import at_least, report
from bench.rig import CORES
from inference_client import Client

ROUNDS = 3
_RUN_S = 4.0
# Of a run, what is left out: the plan has just been moved.
_SETTLES_S = 0.5
_CALLERS = 8
_BOUND = 0.93

_Numbers = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Kinds of media that are sent at once, and the plans that are tried."""

    name: str
    media: Sequence[str]
    plans: Sequence[_Numbers]


_SWEEPS = (
    _Sweep("image only", ("1080p",), [{"threads.image": image} for image in (1, 2, 3, 4)]),
    _Sweep("audio only", ("speech",), [{"threads.audio": audio} for audio in (1, 2, 3, 4)]),
    _Sweep(
        "mixed",
        ("1080p", "speech"),
        [
            {"threads.image": image, "threads.audio": audio}
            for image, audio in itertools.product((1, 2, 3), repeat=2)
        ],
    ),
)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Sweeps, about ten minutes. Raises CannotInstall where no Triton can run."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        running.enter_context(on_cores(CORES))
        triton, made, _ = running.enter_context(accelerators(folder))
        server = running.enter_context(sidecar(triton.grpc_address, checkpoints(folder)))
        client = running.enter_context(Client(server.address))
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        ground = _Ground(server, client, loop, made)
        default = {each.name: each.number for each in client.thread_plan().numbers}
        alone = {media: ground.rates((media,), {})[media] for media in LOADS if media in {"1080p", "speech"}}
        cases = [_case(sweep, plan, ground, alone, rounds) for sweep in _SWEEPS for plan in sweep.plans]
    return {**report("plan", cases, [_target(sweep, cases) for sweep in _SWEEPS]), "default": default}


@dataclass(frozen=True, slots=True)
class _Ground:
    """What runs."""

    server: Served
    client: Client
    loop: asyncio.Runner
    accelerators: Mapping[str, Accelerator]

    def rates(self, media: Sequence[str], plan: _Numbers) -> dict[str, float]:
        """Calls a second of each kind, all sent at once, by a plan; none given is the default."""
        self.client.set_thread_plan({"threads.image": None, "threads.audio": None, **plan})
        return self.loop.run(loaded(self.server, loads_of(media, self.accelerators), _RUN_S))


def loads_of(media: Sequence[str], accelerators: Mapping[str, Accelerator]) -> dict[str, Load]:
    """Callers in closed loops by the media that they send, enough to keep every thread busy; the accelerators take next
    to no time.
    """
    loads = {each: replace(LOADS[each], callers=_CALLERS) for each in media}
    for load in loads.values():
        accelerators[load.model].take(0.5)
    return loads


async def loaded(server: Served, loads: Mapping[str, Load], seconds: float) -> dict[str, float]:
    """Calls a second that were answered, by media, all sent at once for so long."""
    begun = time.monotonic()
    ends = begun + seconds
    noted = {media: Noted() for media in loads}
    await asyncio.gather(
        *(
            call_on(server.address, load, noted[media], lambda: time.monotonic() > ends)
            for media, load in loads.items()
        )
    )
    since, until = int((begun + _SETTLES_S) * 1e9), int(ends * 1e9)
    return {
        media: sum(since < at < until for at in each.answered.values()) / (seconds - _SETTLES_S)
        for media, each in noted.items()
    }


def _case(
    sweep: _Sweep, plan: _Numbers, ground: _Ground, alone: Mapping[str, float], rounds: int
) -> dict[str, Any]:
    """A plan's work beside the default's before and after it."""

    def work(plan: _Numbers) -> float:
        return sum(rate / alone[media] for media, rate in ground.rates(sweep.media, plan).items())

    default = [work({})]
    its = []
    for _ in range(rounds):
        its.append(work(plan))
        default.append(work({}))
    around = [(before + after) / 2 for before, after in itertools.pairwise(default)]
    return {
        "case": f"{sweep.name}, {', '.join(f'{key} {number}' for key, number in plan.items())}",
        "sweep": sweep.name,
        **{key.replace("threads.", ""): number for key, number in plan.items()},
        "work": round(median(its), 4),
        "by_default": round(median([one / other for one, other in zip(its, around, strict=True)]), 4),
    }


def _target(sweep: _Sweep, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = max(case["by_default"] for case in cases if case["sweep"] == sweep.name)
    return at_least(
        f"{sweep.name}: the default plan's throughput by the best static plan's",
        round(1 / max(best, 1.0), 4),
        _BOUND,
    )
