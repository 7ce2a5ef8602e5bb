"""Tables of Markdown, and what all that makes them asks of a result. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def of_kind(result: Result, kind: str) -> list[dict[str, Any]]:
    """A result's cases of one kind."""
    return [case for case in result["cases"] if case["kind"] == kind]
