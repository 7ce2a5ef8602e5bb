"""What became of files that mean harm, as the docs show it. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
# How mutants ended, and what they may not do, by the result's words; `outside` is an error outside the table.
_COUNTS = (
    "mutants",
    "decoded",
    "unsupported",
    "corrupt",
    "too_large",
    "refused",
    "outside",
    "crashes",
    "hangs",
    "over_memory",
)


def fates(result: Result) -> str:
    """Mutants by their format, and the bombs in a line."""
    heads = [name.replace("_", " ") for name in ("format", *_COUNTS, "worst CPU ms")]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " --- |" * (len(heads) - 1)]
    for case in _of(result, "mutants"):
        counts = " | ".join(f"{case[name]:,}" for name in _COUNTS)
        lines.append(f"| {case['format']} | {counts} | {case['worst_cpu_ms']:.0f} |")
    return "\n".join([*lines, "", _bombs(_of(result, "bomb"))])


def _bombs(bombs: Sequence[Mapping[str, Any]]) -> str:
    refused = sum(case["refused"] for case in bombs)
    slowest = max(bombs, key=lambda case: case["cpu_ms"])
    most = max(bombs, key=lambda case: case["grown_mib"])
    return (
        f"{refused} of {len(bombs)} bombs were refused before decoding, the slowest after "
        f"{slowest['cpu_ms']:.1f} ms of CPU ({slowest['case']}); the process grew by "
        f"{most['grown_mib']:.1f} MiB at the most ({most['case']})."
    )


def _of(result: Result, kind: str) -> Sequence[Mapping[str, Any]]:
    return [case for case in result["cases"] if case["kind"] == kind]
