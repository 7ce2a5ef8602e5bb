"""What became of files that mean harm, as the docs show it. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.markdown import Result, of_kind, table

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
    head = [name.replace("_", " ") for name in ("format", *_COUNTS, "worst CPU ms")]
    rows = [
        (case["format"], *(f"{case[name]:,}" for name in _COUNTS), f"{case['worst_cpu_ms']:.0f}")
        for case in of_kind(result, "mutants")
    ]
    return f"{table(head, rows)}\n\n{_bombs(of_kind(result, 'bomb'))}"


def _bombs(bombs: Sequence[Mapping[str, Any]]) -> str:
    refused = sum(case["refused"] for case in bombs)
    slowest = max(bombs, key=lambda case: case["cpu_ms"])
    most = max(bombs, key=lambda case: case["grown_mib"])
    return (
        f"{refused} of {len(bombs)} bombs were refused before decoding, the slowest after "
        f"{slowest['cpu_ms']:.1f} ms of CPU ({slowest['case']}); the process grew by "
        f"{most['grown_mib']:.1f} MiB at the most ({most['case']})."
    )
