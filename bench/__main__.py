"""`make bench`: runs every benchmark and keeps the results as `bench/results/NAME.json`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from bench import NAMES
from sidecar.cli.bench import text

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs all; returns 1 when a target does not hold."""
    held = True
    for name in NAMES:
        result = importlib.import_module(f"bench.{name}").run()
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(text(result))  # noqa: T201 - a command's output
        held &= all(target["holds"] for target in result["targets"])
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
