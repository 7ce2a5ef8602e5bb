"""What was found of the image, as its test and the docs show it. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.markdown import Result, table


def rows(result: Result) -> Sequence[tuple[str, str, str]]:
    """What was looked at, what was found, and whether that is as promised: nothing for a figure."""
    figures = [(case["case"], _figure(case), "") for case in result["cases"]]
    checks = [
        (each["target"], each["figure"], "yes" if each["holds"] else "no") for each in result["targets"]
    ]
    return [*figures, *checks]


def held(result: Result) -> str:
    """How many of the checks hold."""
    targets = result["targets"]
    return f"{sum(each['holds'] for each in targets)} of {len(targets)} checks hold"


def found(result: Result) -> str:
    """All of it as a table."""
    machine = result["machine"]
    cells = [
        (what, told.replace("|", "&#124;"), "**no**" if holds == "no" else holds)
        for what, told, holds in rows(result)
    ]
    where = f"On {machine['cores']} cores of an {machine['cpu']}. `make image-test KEEP=1` looks anew."
    return f"{table(('', 'found', 'holds'), cells)}\n\n{held(result)}. {where}"


def _figure(case: Mapping[str, Any]) -> str:
    if "bytes" in case:
        base = f", of which the base is {_mb(case['base_bytes'])}" if "base_bytes" in case else ""
        return _mb(case["bytes"]) + base
    return f"{case['seconds']:.2f} s, {case['cpu_s']:.2f} s of CPU"


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
