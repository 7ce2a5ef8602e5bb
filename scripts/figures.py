"""Copies the figures of bench/results into the docs, between their marks, and draws the charts; --check only compares.

A mark is `<!-- figures: NAME -->`, up to `<!-- end -->`, NAME a key of `bench.tables.TABLES`. Figures are never
written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from bench import verdict_tables
from bench.tables import TABLES, chart, overload_chart

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = ("README.md", "docs/benchmarks.md", "docs/image.md", "docs/recipes.md", "docs/triton-clients.md")
# By picture: the result that it is drawn from, and how.
CHARTS = {
    "docs/images/peers.svg": ("peers", chart),
    "docs/images/overload.svg": ("overload", overload_chart),
    "docs/images/verdict.svg": ("verdict", verdict_tables.chart),
}
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Writes what is stale; with --check returns 1 where something is."""
    wanted = {name: MARKED.sub(_fresh, (ROOT / name).read_text()) for name in PAGES}
    wanted |= {name: draw(_result(result)) for name, (result, draw) in CHARTS.items() if _is_kept(result)}
    stale = [name for name, text in wanted.items() if _read(name) != text]
    if "--check" in sys.argv and stale:
        print(f"stale figures in {', '.join(stale)}: run python scripts/figures.py")
        return 1
    for name in stale:
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(wanted[name])
    return 0


def _fresh(mark: re.Match[str]) -> str:
    result, make = TABLES[mark[2]]
    return f"{mark[1]}{make(_result(result))}\n{mark[3]}"


def _is_kept(name: str) -> bool:
    """Whether a benchmark has been run with its result kept."""
    return (RESULTS / f"{name}.json").exists()


def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _read(name: str) -> str | None:
    return (ROOT / name).read_text() if (ROOT / name).exists() else None


if __name__ == "__main__":
    sys.exit(main())
