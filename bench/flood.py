"""A flood of large pictures at a server that may use a gibibyte: does it hold, and does nothing of it restart?

`python -m bench.flood [SECONDS]` runs it alone: five minutes unless told otherwise; the overload benchmark runs less.
The limit is the kernel's own where control groups can be had (`bench.confined`), and else memory is looked at.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from bench.confined import Group, confined, resident_bytes
from bench.ground import Served, check, served, started, upstream
from bench.load import poisson
from bench.mix import KINDS, requests
from bench.processes import on_cores, tree
from bench.rig import CORES
from bench.sidecars import INFER
from bench.storm import Answer, Shot, Status, callers, preferred, storm
from testbed.install import install
from testbed.triton import Triton

LIMIT_BYTES = 2**30
FIVE_MINUTES_S = 300.0
RATE = 90.0
"""Pictures of 12 MP a second: two to three times what two cores of a cloud Xeon prepare."""

_LARGE = next(kind for kind in KINDS if kind.name == "12 MP")
# How often memory is looked at where nothing keeps its peak.
_LOOK_S = 0.2


@dataclass(slots=True)
class _Peak:
    """The most memory that was seen."""

    nbytes: int = 0


def flood(triton: Triton, seconds: float) -> dict[str, Any]:
    """Starts a sidecar under the limit, floods it, and tells how it fared."""
    with confined(LIMIT_BYTES) as group:
        command = [sys.executable, "-m", "sidecar", "serve"]
        inside = command if group is None else group.command(command)
        with started(inside, served(triton), set_by=("--set",)) as running:
            check(running)
            processes = set(tree(running.pid))
            with _watched(running, group) as peak, preferred():
                answers = uvloop.run(_flood(running, seconds))
            lost = processes - set(tree(running.pid))
            killed = 0 if group is None else group.killed
    return _case(seconds, answers, peak.nbytes, lost=len(lost), killed=killed, confined=group is not None)


async def _flood(running: Served, seconds: float) -> Sequence[Answer]:
    own = requests()[_LARGE.name]
    every = [
        Shot(moment, _LARGE, own[number % len(own)], _LARGE.deadline_s)
        for number, moment in enumerate(poisson(RATE, seconds, 3))
    ]
    async with callers(running.address, INFER) as asks:
        return await storm(asks, every)


@contextmanager
def _watched(running: Served, group: Group | None) -> Iterator[_Peak]:
    """The peak of the group, or of what is looked at again and again."""
    peak, over = _Peak(), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            peak.nbytes = max(peak.nbytes, resident_bytes(running.pid))

    watcher = threading.Thread(target=look)
    if group is None:
        watcher.start()
    try:
        yield peak
    finally:
        over.set()
        if group is None:
            watcher.join()
        else:
            peak.nbytes = group.peak_bytes


def _case(
    seconds: float, answers: Sequence[Answer], peak_bytes: int, *, lost: int, killed: int, confined: bool
) -> dict[str, Any]:
    told: Mapping[Status, int] = Counter(answer.status for answer in answers)
    return {
        "case": f"12 MP JPEGs at {RATE:g} a second under 1 GiB for {seconds:g} s",
        "kind": "flood",
        "seconds": seconds,
        "limit": "kernel" if confined else "looked at",
        "limit_mib": LIMIT_BYTES >> 20,
        "peak_mib": peak_bytes >> 20,
        "processes_lost": lost,
        "killed_for_memory": killed,
        "answered": told.get(Status.OK, 0),
        "refused": told.get(Status.REFUSED, 0),
        "late": told.get(Status.LATE, 0),
        "failed": told.get(Status.FAILED, 0),
    }


def held(case: Mapping[str, Any]) -> bool:
    """Whether it answered all the while, within the limit, and lost nothing."""
    within = int(case["peak_mib"]) <= int(case["limit_mib"])
    lost = int(case["processes_lost"]) + int(case["killed_for_memory"]) + int(case["failed"])
    return within and not lost and int(case["answered"]) > 0


def main(arguments: Sequence[str]) -> int:
    """Runs it alone. Returns 0 where it held."""
    with on_cores(CORES), upstream(install()) as triton:
        case = flood(triton, float(arguments[0]) if arguments else FIVE_MINUTES_S)
    print(json.dumps(case, indent=2))  # noqa: T201 - a command's output
    return 0 if held(case) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
