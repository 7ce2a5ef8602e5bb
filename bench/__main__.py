"""`make bench`: runs the benchmarks and keeps the results as `bench/results/NAME.json`.

`python -m bench [NAME...] [--rounds N]`; with other rounds than the benchmark's own nothing is kept, since such
a run is a trial.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from bench import NAMES
from sidecar.cli.bench import text

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs those named, or all; returns 1 when a target does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--rounds", type=int, help="a trial with so many rounds, whose result is not kept")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {min(unknown)!r}; there are: {', '.join(NAMES)}")
    held = True
    for name in options.names or NAMES:
        run = importlib.import_module(f"bench.{name}").run
        result = run() if options.rounds is None else run(options.rounds)
        if options.rounds is None:
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(text(result))  # noqa: T201 - a command's output
        held &= all(target["holds"] for target in result["targets"])
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
