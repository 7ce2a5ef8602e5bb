"""How soon the shipped alert rings, as the docs show it. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.markdown import Result, table

_TIMES = ("fired_s", "cleared_s")


def rings(result: Result) -> str:
    """How soon the alert rings and is over, the latest of the rounds, by what starves the accelerator."""
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for case in result["cases"]:
        by_case.setdefault(case["case"], []).append(case)
    head = ("what starves it", "rings after, s", "over after, s", "rang too soon", "over too soon")
    rows = [
        (
            name,
            *(_latest(cases, key) for key in _TIMES),
            *(str(sum(case.get(key, 0) for case in cases)) for key in ("false", "wavered")),
        )
        for name, cases in by_case.items()
    ]
    return table(head, rows)


def short(result: Result) -> str:
    """The latest of all, in a line."""
    rang, over = (_latest(result["cases"], key) for key in _TIMES)
    return (
        f"The chart's alert, in a real Prometheus that scrapes every {result['stage']['scraped_every_s']} s, "
        f"rings within {rang} s of an injected starvation and is over within {over} s of its end."
    )


def _latest(cases: Sequence[Mapping[str, Any]], key: str) -> str:
    """A dash where no starvation could be let in, since the alert rang already."""
    times = [case[key] for case in cases if key in case]
    return f"{max(times):.1f}" if times else "–"
