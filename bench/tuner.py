"""Where the tuner settles, and whether it leaves a steady load alone.

A sidecar that tunes itself, and one that does not beside it for comparison, before a real Triton whose models take next
to no time, with callers in closed loops on the same two cores. The tuner begins at plans that are wrong, has half a
minute of load, and then its plan runs on the other sidecar in turn with every static plan of a sweep: the figure is its
work by the best one's. Then the budget is taken down to one core by a real quota and given back, and the same is asked
ten seconds later. Last, both kinds of media at once for ten minutes: how often did it change its mind?
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench.episodes.accelerator import Accelerator
from bench.episodes.quota import Quota, quota
from bench.episodes.stage import accelerators, checkpoints, sidecar
from bench.ground import Served
from bench.load import median
from bench.plan import loaded, loads_of
from bench.processes import on_cores
from bench.report import at_least, at_most, report
from bench.rig import CORES
from inference_client import Client

ROUNDS = 3
_IMAGE, _AUDIO = "threads.image", "threads.audio"
_STARTS: Sequence[Mapping[str, int]] = (
    {_IMAGE: 1, _AUDIO: 1},
    {_IMAGE: 4, _AUDIO: 2},
    {_IMAGE: 8, _AUDIO: 4},
)
_STATIC = (1, 2, 3, 4)
_SETTLES_S, _AGAIN_S, _STEADY_S = 30.0, 10.0, 600.0
_RUN_S = 4.0


@dataclass(frozen=True, slots=True)
class _Ground:
    """What runs: the sidecar that tunes itself, and the one whose plan is set."""

    tuned: Served
    still: Served
    quota: Quota
    loop: asyncio.Runner
    accelerators: Mapping[str, Accelerator]

    def load(self, server: Served, media: Sequence[str], seconds: float) -> dict[str, float]:
        """Calls a second by media."""
        return self.loop.run(loaded(server, loads_of(media, self.accelerators), seconds))

    def settled(self) -> dict[str, int]:
        """The tuned sidecar's threads now."""
        with Client(self.tuned.address) as client:
            plan = client.thread_plan()
        return {key: plan[key] for key in (_IMAGE, _AUDIO)}

    def beside_best(self, plan: Mapping[str, int], rounds: int) -> float:
        """A plan's work by the best static plan's, run in turn."""
        found: dict[int, list[float]] = {}
        with Client(self.still.address) as client:
            for _ in range(rounds):
                rates: dict[int, float] = {}
                for image in (plan[_IMAGE], *_STATIC):
                    client.set_thread_plan({_IMAGE: image})
                    rates.setdefault(image, self.load(self.still, ("1080p",), _RUN_S)["1080p"])
                for image, rate in rates.items():
                    found.setdefault(image, []).append(rate / rates[plan[_IMAGE]])
        return min(1.0, 1 / max(median(ratios) for ratios in found.values()))


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """About a quarter of an hour. Raises CannotInstall where no Triton can run."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        running.enter_context(on_cores(CORES))
        triton, made, _ = running.enter_context(accelerators(folder))
        recipes, limit = checkpoints(folder), running.enter_context(quota())
        with limit.starting():
            tuned = running.enter_context(sidecar(triton.grpc_address, recipes, **{"tuner.mode": "act"}))
        still = running.enter_context(sidecar(triton.grpc_address, recipes))
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        ground = _Ground(tuned, still, limit, loop, made)
        cases = [_started(ground, start, rounds) for start in _STARTS]
        cases.append(_resized(ground, rounds))
        cases.append(_steady(ground))
    return report("tuner", cases, _targets(cases))


def _started(ground: _Ground, start: Mapping[str, int], rounds: int) -> dict[str, Any]:
    with Client(ground.tuned.address) as client:
        client.set_thread_plan(dict(start))
    ground.load(ground.tuned, ("1080p",), _SETTLES_S)
    plan = ground.settled()
    return {
        "case": f"from {_named(start)}",
        "kind": "settles",
        "plan": _named(plan),
        "beside_best": round(ground.beside_best(plan, rounds), 4),
    }


def _resized(ground: _Ground, rounds: int) -> dict[str, Any]:
    """One core for a while, then two again, under load all the time."""
    with Client(ground.tuned.address) as client:
        client.set_thread_plan({_IMAGE: None, _AUDIO: None})
    pid = ground.tuned.pid
    ground.quota.allow(1.0, pid)
    ground.load(ground.tuned, ("1080p",), _AGAIN_S)
    small = ground.settled()
    ground.quota.allow(None, pid)
    ground.load(ground.tuned, ("1080p",), _AGAIN_S)
    plan = ground.settled()
    return {
        "case": "one core, and two again",
        "kind": "resized",
        "with_one": _named(small),
        "plan": _named(plan),
        "beside_best": round(ground.beside_best(plan, rounds), 4),
    }


def _steady(ground: _Ground) -> dict[str, Any]:
    with Client(ground.tuned.address) as client:
        client.set_thread_plan({_IMAGE: None, _AUDIO: None})
        begun = time.monotonic()
        ground.load(ground.tuned, ("1080p", "speech"), _STEADY_S)
        took = time.monotonic() - begun
        changes = [each for each in client.thread_plan().changes if each.ago_s < took]
    return {
        "case": f"a steady mix for {_STEADY_S:.0f} s",
        "kind": "steady",
        "changes": len(changes),
        "why": [each.why for each in changes],
    }


def _targets(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    settles = [case["beside_best"] for case in cases if case["kind"] == "settles"]
    (resized,) = (case["beside_best"] for case in cases if case["kind"] == "resized")
    (changes,) = (case["changes"] for case in cases if case["kind"] == "steady")
    return [
        at_least("throughput by the best static plan's, 30 s after any start", min(settles), 0.97),
        at_least("the same, 10 s after a change of budget", resized, 0.97),
        at_most("changes in 10 min of a steady mixed load", changes, 2),
    ]


def _named(plan: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {number}" for key, number in plan.items())
