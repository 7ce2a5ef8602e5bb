"""The drop-in API's results as the docs show them. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

Result = Mapping[str, Any]


def passing(result: Result) -> str:
    """What passing an ordinary tensor on costs, beside a relay that does nothing else."""
    lines = [
        "| tensor | at Triton, p50 ms | through the sidecar | through a bare relay |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {case['size']} | {case['direct_ms']:.2f} | **+{case['more_ms']:.2f}** | +{case['relay_more_ms']:.2f} |"
        for case in result["cases"]
        if case["kind"] == "unary"
    ]
    return "\n".join(lines)


def calls(result: Result) -> str:
    """Every call of an unchanged client, and whether it ends as at Triton."""
    asked = [case for case in result["cases"] if case["kind"] == "client"]
    lines = ["| | what is asked | the same as from Triton |", "| --- | --- | --- |"]
    for kind, cases in groupby(asked, lambda case: case["of"]):
        for place, case in enumerate(cases):
            lines.append(
                f"| {kind if place == 0 else ''} | {case['case']} | {'yes' if case['same'] else '**no**'} |"
            )
    return "\n".join(lines)
