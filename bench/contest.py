"""The contest: the same load against several policies, and what is made of the answers.

Work is counted by what a request of its kind costs the workers (CPU time) when it is alone: what the front spends on
receiving, answering and refusing is nobody's work. Capacity is the work a second that the sidecar does when a closed
loop of the same mix keeps it busy and everything is let in. Both are measured in the
same run. The load and Triton share the cores, and what they take there grows with the load; so goodput is told twice:
over capacity as it was found, and over capacity by the core-seconds that were left to the server: all of the cores,
less what anything else ran there by the kernel's count.

A stretch of load begins before it is counted and goes on after, so that what is counted neither finds the server idle
nor has it for itself in the end.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.ground import OURS, Ground, Served
from bench.load import closed_loop, median, percentile
from bench.mix import KINDS, SMALL, requests
from bench.processes import Spent, since, spent
from bench.sidecars import INFER
from bench.storm import Answer, Shot, Status, callers, shots, storm
from inference_client.connection import DEFAULT_RETRIES, service_config

# Seconds of a stretch that count, and those before and after.
COUNTED_S, BEFORE_S, AFTER_S = 3.0, 0.8, 0.7
CAPACITY_S = 3.0
# Calls in flight that keep the server busy whatever their kinds are.
_IN_FLIGHT = 24
# Nobody is refused for want of time while capacity is measured; who names no deadline is taken to have some seconds.
_AMPLE_S = 60.0
# Calls of each kind, one at a time, to know it alone.
_ALONE = {"icon": 60, "1080p": 32, "12 MP": 16, "audio": 6}
# The client's own: it waits as long as the server says, and stops for a while where most calls fail.
RETRIES = (
    ("grpc.service_config", service_config(DEFAULT_RETRIES)),
    ("grpc.per_rpc_retry_buffer_size", 36 * 2**20),
)


@dataclass(frozen=True, slots=True)
class Alone:
    """A kind with the server to itself: CPU milliseconds of the server a call, those of the workers among them, and
    the median seconds of one.
    """

    cpu_ms: float
    work_ms: float
    p50_s: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the server does when it is kept busy: calls and core-seconds of work a second; `others` is how many cores
    all else had meanwhile, above all the load and Triton.
    """

    calls: float
    work: float
    others: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """The answers that count, over `seconds`; cores that the front, the workers and all else had."""

    answers: Sequence[Answer]
    seconds: float
    others: float
    front: float
    workers: float


def alone(on: Ground) -> Mapping[str, Alone]:
    """Every kind by itself."""
    return {kind.name: on.loop.run(_alone(on.servers[OURS], kind.name)) for kind in KINDS}


async def _alone(server: Served, kind: str) -> Alone:
    own, count = requests()[kind], _ALONE[kind]
    taken: list[float] = []
    async with callers(server.address, INFER) as asks:
        for request in own:
            await asks[0](request)
        before = spent(server.pid)
        for number in range(count):
            begun = time.perf_counter()
            await asks[0](own[number % len(own)])
            taken.append(time.perf_counter() - begun)
        after = spent(server.pid)
    cpu_ns, front_ns = since(before, after), since(before, after, [server.pid])
    return Alone(cpu_ns / count / 1e6, (cpu_ns - front_ns) / count / 1e6, percentile(taken, 50))


def lap(seed: int) -> list[bytes]:
    """One hundred requests in the mix's very shares, shuffled."""
    files = requests()
    every = [
        files[kind.name][number % len(files[kind.name])] for kind in KINDS for number in range(kind.percent)
    ]
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[place] for place in order]


def capacity(on: Ground, costs: Mapping[str, Alone], seed: int) -> Capacity:
    """What our server does of the mix when it always has something to do, with no deadline and nobody refused."""
    calls, taken = on.loop.run(_saturate(on, on.servers[OURS], lap(seed)))
    work_ms = sum(kind.percent / 100 * costs[kind.name].work_ms for kind in KINDS)
    return Capacity(calls, calls * work_ms / 1e3, taken)


async def _saturate(on: Ground, server: Served, every: Sequence[bytes]) -> tuple[float, float]:
    """Calls a second, and the cores that all else had."""
    async with callers(server.address, INFER) as asks:

        async def ask(number: int) -> bytes:
            return await asks[number % len(asks)](every[number % len(every)], _AMPLE_S)

        guess = await closed_loop(ask, _IN_FLIGHT, len(every))
        count = max(1, round(CAPACITY_S / guess)) * len(every)
        before = read(on, server)
        taken = await closed_loop(ask, _IN_FLIGHT, count)
        return count / taken, others(before, read(on, server)) / taken


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks: core-seconds that the cores were not idle since boot, and the server's CPU by process."""

    busy_s: float
    server: Spent


def read(on: Ground, server: Served) -> Reading:
    """Reads them now."""
    return Reading(busy_s(on.cores), spent(server.pid))


def others(before: Reading, after: Reading) -> float:
    """Core-seconds that all but the server had on the cores between two readings."""
    return max(0.0, after.busy_s - before.busy_s - since(before.server, after.server) / 1e9)


def busy_s(cores: Iterable[int]) -> float:
    """Seconds that these cores were not idle since boot, to a hundredth each (proc(5), /proc/stat)."""
    wanted = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, *rest = map(int, fields)
            # irq, softirq and steal; a guest's time is in the user's already.
            ticks += user + nice + system + sum(rest[:3])
    return ticks / os.sysconf("SC_CLK_TCK")


def stretch(on: Ground, policy: str, rate: float, seed: int) -> Stretch:
    """Poisson arrivals of the mix at `rate` a second, without retries."""
    every = shots([(BEFORE_S + COUNTED_S + AFTER_S, rate)], seed)
    return on.loop.run(_stretch(on, on.servers[policy], every))


async def _stretch(on: Ground, server: Served, every: Sequence[Shot]) -> Stretch:
    readings: list[Reading] = []
    ends_s = BEFORE_S + COUNTED_S
    async with callers(server.address, INFER) as asks:
        mark = partial(_keep, readings, on, server)
        answers = await storm(asks, every, [(BEFORE_S, mark), (ends_s, mark)])
    before, after = readings
    front = since(before.server, after.server, [server.pid])
    return Stretch(
        [answer for answer in answers if BEFORE_S <= answer.shot.due_s < ends_s],
        COUNTED_S,
        others(before, after) / COUNTED_S,
        front / 1e9 / COUNTED_S,
        (since(before.server, after.server) - front) / 1e9 / COUNTED_S,
    )


def _keep(readings: list[Reading], on: Ground, server: Served) -> None:
    readings.append(read(on, server))


@dataclass(frozen=True, slots=True)
class Figures:
    """What a stretch comes to; shares are of 1. `goodput` is work that met its deadline over capacity, and
    `goodput_left` over what the core-seconds that were left to the server would have been capacity for.
    """

    goodput: float
    goodput_left: float
    met: float


def figures(found: Stretch, costs: Mapping[str, Alone], full: Capacity, cores: int) -> Figures:
    """Sums up a stretch."""
    work = sum(costs[answer.shot.kind.name].work_ms for answer in found.answers if answer.met) / 1e3
    could = full.work * found.seconds
    left = (cores - found.others) / (cores - full.others)
    return Figures(work / could, work / (could * left), share(found.answers))


def share(answers: Iterable[Answer]) -> float:
    """Of those, how many were answered by their deadline; not a number where there are none."""
    told = [answer.met for answer in answers]
    return sum(told) / len(told) if told else math.nan


def waits(answers: Iterable[Answer]) -> list[float]:
    """Seconds to a good answer; whoever got none in time is taken to have waited for its whole deadline."""
    return [answer.taken_s if answer.met else answer.shot.deadline_s or math.inf for answer in answers]


def case(policy: str, load: float, stretches: Sequence[Stretch], told: Sequence[Figures]) -> dict[str, Any]:
    """A policy at a load, over all rounds: medians of shares, percentiles over the answers of all rounds."""
    answers = [answer for found in stretches for answer in found.answers]
    refused = [answer for answer in answers if answer.status is Status.REFUSED]
    small = waits(answer for answer in answers if answer.shot.kind is SMALL)
    return {
        "case": f"{policy} at {load:g} x capacity",
        "kind": "contest",
        "policy": policy,
        "load": load,
        "rounds": len(stretches),
        "offered_per_s": round(len(answers) / sum(found.seconds for found in stretches), 1),
        "goodput": _round(median([each.goodput for each in told])),
        "goodput_of_cores_left": _round(median([each.goodput_left for each in told])),
        "met": _round(median([each.met for each in told])),
        **{
            f"met_{kind.name}": _round(share(answer for answer in answers if answer.shot.kind is kind))
            for kind in KINDS
        },
        "small_p50_ms": _round(percentile(small, 50) * 1e3),
        "small_p99_ms": _round(percentile(small, 99) * 1e3),
        "refused": _round(len(refused) / len(answers)),
        "late": _round(sum(answer.status is Status.LATE for answer in answers) / len(answers)),
        "failed": _round(sum(answer.status is Status.FAILED for answer in answers) / len(answers)),
        "refused_p50_ms": _of(refused, 50),
        "refused_p99_ms": _of(refused, 99),
        "lag_p99_ms": _round(percentile([answer.lag_s for answer in answers], 99) * 1e3),
        "front_cores": _round(median([found.front for found in stretches])),
        "workers_cores": _round(median([found.workers for found in stretches])),
        "others_cores": _round(median([found.others for found in stretches])),
    }


def _of(refused: Sequence[Answer], percent: float) -> float | None:
    """Milliseconds from being due to the refusal."""
    return _round(percentile([each.taken_s for each in refused], percent) * 1e3) if refused else None


def _round(value: float) -> float:
    return round(value, 4)


PULSE = ((3.0, 0.5), (5.0, 3.0), (6.0, 0.5))
STEP = ((3.0, 0.7), (5.0, 1.4))
"""Seconds and multiples of capacity: Breakwater's step, and a pulse that is taken away again."""

_BIN_S = 0.5
# What counts as being well again.
_WELL = 0.95


def unsteady(on: Ground, policy: str, profile: Sequence[tuple[float, float]], full: Capacity) -> list[Answer]:
    """A load that changes, from callers who retry as the project's client does."""
    every = shots([(seconds, load * full.calls) for seconds, load in profile], 7)
    return on.loop.run(_unsteady(on.servers[policy], every))


async def _unsteady(server: Served, every: Sequence[Shot]) -> list[Answer]:
    async with callers(server.address, INFER, RETRIES) as asks:
        return await storm(asks, every)


def unsteady_case(
    name: str, policy: str, profile: Sequence[tuple[float, float]], answers: Sequence[Answer]
) -> dict[str, Any]:
    """Shares in deadline of each stretch of the profile, and how long until all was well after the last change; None
    where the load stays beyond capacity.
    """
    edges = np.cumsum([0.0, *(seconds for seconds, _ in profile)])
    parts = [
        _round(share(answer for answer in answers if start <= answer.shot.due_s < end))
        for start, end in itertools.pairwise(edges)
    ]
    loads = " to ".join(f"{load:g}" for _, load in profile)
    return {
        "case": f"{name}: {policy}, {loads} x capacity, retrying",
        "kind": "unsteady",
        "name": name,
        "policy": policy,
        **{f"met_{number}": part for number, part in enumerate(parts)},
        "well_after_s": None
        if profile[-1][1] > 1
        else well_after(answers, float(edges[-2]), float(edges[-1])),
    }


def well_after(answers: Sequence[Answer], start_s: float, end_s: float) -> float:
    """Seconds after `start_s` from which on no half second was below the share that is well; its length if never."""
    bad = start_s
    for at_s in np.arange(start_s, end_s, _BIN_S):
        met = share(answer for answer in answers if at_s <= answer.shot.due_s < at_s + _BIN_S)
        if met < _WELL:
            bad = float(at_s) + _BIN_S
    return _round(bad - start_s)
