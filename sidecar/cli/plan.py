"""`sidecar plan`: what the container has, the threads that follow from it, and why these numbers; with `--for`, what
media that has not come yet would take (`sizing.py`).

It reads the settings as `serve` does and the limits of where it runs, or those that it is told, starts nothing, and
needs no server.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sidecar.app import wanted
from sidecar.cli import sizing
from sidecar.settings import Settings
from sidecar.workers.budget import Bound, Budget, read_budget
from sidecar.workers.plan import ThreadPlan
from sidecar.workers.planner import Planner
from sidecar.workers.sizing import room

# More than any plan asks for.
_PLENTY = 1 << 50
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_MEMORY = re.compile(r"(\d+)(Ki|Mi|Gi|K|M|G)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `sidecar plan`, beside the settings' own flags."""
    parser.add_argument(
        "--cores",
        type=_cores,
        metavar="N",
        help="plan for a quota of so many cores, such as 2.5, instead of this one",
    )
    parser.add_argument(
        "--memory", type=_memory, metavar="SIZE", help="plan for so much memory, such as 2Gi, instead of this"
    )
    sizing.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print it as one JSON object")


def plan(settings: Settings, options: argparse.Namespace, root: Path = Path("/")) -> int:
    """Prints the plan, or what streams of media take. Returns 1 where a memory limit that was told holds no replica of
    them, else 0. Raises SettingsError for settings that make no plan.
    """
    if options.streams:
        return _size(settings, options, root)
    budget = _supposed(read_budget(os.sched_getaffinity(0), root), options.cores, options.memory)
    made = Planner(wanted(settings), budget).plan
    told = json.dumps(_fields(budget, made), indent=2) if options.json else "\n".join(_lines(budget, made))
    print(told)  # noqa: T201 - a command talks to its terminal
    return 0


def _size(settings: Settings, options: argparse.Namespace, root: Path) -> int:
    found = sizing.sized(settings, options.streams, options.factor, options.cores)
    budget = read_budget(os.sched_getaffinity(0), root)
    # Memory follows from the plan, so the plan is made for as much as it may take.
    made = Planner(wanted(settings), _supposed(budget, found.split.cores, _PLENTY)).plan
    needed = room(found.streams, made, found.split.replicas)
    if options.json:
        told = json.dumps(sizing.fields(found, made, needed), indent=2)
    else:
        told = "\n".join(sizing.lines(found, made, needed))
    print(told)  # noqa: T201 - a command talks to its terminal
    if options.memory is None or options.memory >= needed.memory:
        return 0
    short = f"{_size_words(options.memory)} of memory are less than the {_size_words(needed.memory)} that it takes"
    print(f"sidecar: {short}", file=sys.stderr)  # noqa: T201 - as above
    return 1


def _supposed(budget: Budget, cores: float | None, memory_bytes: int | None) -> Budget:
    """The budget of a container with these limits instead, on a machine that has more."""
    if cores is not None:
        cpus = tuple(range(max(len(budget.cpus), math.ceil(cores) + 1)))
        bounds = (Bound("what was asked for", cores),)
        budget = dataclasses.replace(budget, cpus=cpus, quota=cores, exclusive=False, cpu_bounds=bounds)
    if memory_bytes is not None:
        bounds = (Bound("what was asked for", memory_bytes),)
        budget = dataclasses.replace(budget, memory_bytes=memory_bytes, memory_bounds=bounds)
    return budget


def _lines(budget: Budget, made: ThreadPlan) -> Iterator[str]:
    yield f"{budget.cores:g} cores" + (
        ", which seem to be this container's alone" if budget.exclusive else ""
    )
    yield from _bounds(budget.cpu_bounds, lambda allows: f"{allows:g}")
    yield f"{_size_words(budget.memory_bytes)} of memory"
    yield from _bounds(budget.memory_bounds, _size_words)
    for file in budget.unreadable:
        yield f"cannot be read, and may be a limit all the same: {file}"
    yield ""
    width = max(len(reason.what) for reason in made.reasons)
    for reason in made.reasons:
        yield f"{reason.what:<{width}}  {reason.number:>3}  {reason.why}"


def _bounds(bounds: tuple[Bound, ...], shown: Callable[[float], str]) -> Iterator[str]:
    for number, bound in enumerate(bounds):
        yield f"  {shown(bound.allows):>10}  {bound.what}{'' if number else '  <- the tightest'}"


def _fields(budget: Budget, made: ThreadPlan) -> dict[str, Any]:
    return {
        "cores": budget.cores,
        "cpus": list(budget.cpus),
        "exclusive": budget.exclusive,
        "memory_bytes": budget.memory_bytes,
        "cpu_bounds": [dataclasses.asdict(bound) for bound in budget.cpu_bounds],
        "memory_bounds": [dataclasses.asdict(bound) for bound in budget.memory_bounds],
        "unreadable": list(budget.unreadable),
        "plan": [dataclasses.asdict(reason) for reason in made.reasons],
    }


def _size_words(nbytes: float) -> str:
    return f"{nbytes / (1 << 30):.4g} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.4g} MiB"


def _cores(text: str) -> float:
    cores = float(text)
    if not 0.01 <= cores <= 4096:  # noqa: PLR2004 - more than any machine has
        raise argparse.ArgumentTypeError(f"{text} cores: from 0.01 to 4096 can be")
    return cores


def _memory(text: str) -> int:
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: write bytes, or a number with Ki, Mi, Gi, K, M or G"
        )
    return int(match[1]) * _UNITS[match[2] or ""]
