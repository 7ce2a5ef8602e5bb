"""Copies the figures of bench/results into the docs, between their marks; --check only compares.

A mark is `<!-- figures: NAME -->`, up to `<!-- end -->`. Figures are never written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("README.md",)
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def cpu(result: dict[str, Any]) -> str:
    """The table of `bench cpu`."""
    lines = [
        "| case | decode alone | decode, transform, pack | served | served ÷ bare |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {case['case']} | {case['decode_cpu_ms']:.1f} | {case['bare_cpu_ms']:.1f} "
        f"| {case['served_cpu_ms']:.1f} | **{case['served_over_bare']:.2f}** |"
        for case in result["cases"]
    ]
    versions = result["versions"]
    lines.append(
        f"\nCPU milliseconds an image, medians of five alternating rounds on {result['machine']['cores']} cores "
        f"of an {result['machine']['cpu'].replace('(R)', '')}; Python {versions['python']}, "
        f"Pillow {versions['pillow']}, grpcio {versions['grpcio']}. `sidecar bench cpu --json` prints them."
    )
    return "\n".join(lines)


TABLES = {"cpu": cpu}


def main() -> int:
    """Fills the marks in; with --check returns 1 where a page is stale."""
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text()

        def fresh(mark: re.Match[str]) -> str:
            result = json.loads((ROOT / "bench" / "results" / f"{mark[2]}.json").read_text())
            return f"{mark[1]}{TABLES[mark[2]](result)}\n{mark[3]}"

        wanted = MARKED.sub(fresh, text)
        if wanted != text:
            stale.append(name)
            if "--check" not in sys.argv:
                page.write_text(wanted)
    if stale and "--check" in sys.argv:
        print(f"stale figures in {', '.join(stale)}: run python scripts/figures.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
