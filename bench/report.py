"""What every result says of where it was taken."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "grpcio",
    "numpy",
    "pillow",
    "pillow-simd",
    "av",
    "protobuf",
    "scipy",
    "uvloop",
    "numba",
    "simplejpeg",
)


def report(name: str, cases: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One benchmark's object: name, versions, machine, cases, targets."""
    return {
        "name": name,
        "versions": {"python": platform.python_version(), **_installed()},
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": sys.platform},
        "cases": list(cases),
        "targets": list(targets),
    }


def _installed() -> dict[str, str]:
    found = {each.name.lower(): each.version for each in metadata.distributions() if each.name}
    return {name: found[name] for name in _LIBRARIES if name in found}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def at_least(target: str, figure: float, bound: float) -> dict[str, Any]:
    """A target that holds where the figure reaches the bound."""
    return {"target": target, "figure": figure, "bound": f"at least {bound:g}", "holds": figure >= bound}


def at_most(target: str, figure: float, bound: float) -> dict[str, Any]:
    """A target that holds where the figure does not pass the bound."""
    return {"target": target, "figure": figure, "bound": f"at most {bound:g}", "holds": figure <= bound}
