"""The drop-in API's results as the docs show them. Reads results only."""

from __future__ import annotations

from itertools import groupby

from bench.markdown import Result, of_kind, table


def passing(result: Result) -> str:
    """What passing an ordinary tensor on costs, beside a relay that does nothing else."""
    head = ("tensor", "at Triton, p50 ms", "through the sidecar", "through a bare relay")
    rows = [
        (
            case["size"],
            f"{case['direct_ms']:.2f}",
            f"**+{case['more_ms']:.2f}**",
            f"+{case['relay_more_ms']:.2f}",
        )
        for case in of_kind(result, "unary")
    ]
    return table(head, rows)


def calls(result: Result) -> str:
    """Every call of an unchanged client, and whether it ends as at Triton."""
    asked = of_kind(result, "client")
    lines = ["| | what is asked | the same as from Triton |", "| --- | --- | --- |"]
    for kind, cases in groupby(asked, lambda case: case["of"]):
        for place, case in enumerate(cases):
            lines.append(
                f"| {kind if place == 0 else ''} | {case['case']} | {'yes' if case['same'] else '**no**'} |"
            )
    return "\n".join(lines)
