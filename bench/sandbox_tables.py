"""What the sandbox costs, as the docs show it. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import Result, table


def costs(result: Result) -> str:
    """What it takes of calls a second and adds to CPU time, and how far the middle half of the rounds reaches."""
    head = ("case", "throughput lost, %", "CPU added, %", "calls/s", "CPU ms a call")
    rows = [
        (
            case["case"],
            _part(case, "throughput_lost"),
            _part(case, "cpu_added"),
            f"{case['calls_per_s']:.0f}",
            f"{case['cpu_ms']:.2f}",
        )
        for case in result["cases"]
    ]
    layers = ", ".join(dict.fromkeys(layer for case in result["cases"] for layer in case["layers"]))
    return f"{table(head, rows)}\n\nIts layers here: {layers}."


def short(result: Result) -> str:
    """The worst of each, in a line."""
    cases = result["cases"]
    lost, added = (max(case[key] for case in cases) for key in ("throughput_lost", "cpu_added"))
    kinds = ", ".join(case["case"].partition(",")[0] for case in cases)
    return (
        f"Workers in their sandbox beside workers without one, the worst of {kinds}: calls a second {-lost:+.1%}, "
        f"CPU time of a call {added:+.1%}."
    )


def _part(case: Mapping[str, Any], key: str) -> str:
    low, high = case[f"{key}_middle_half"]
    return f"**{100 * case[key]:+.1f}** ({100 * low:+.1f} to {100 * high:+.1f})"
