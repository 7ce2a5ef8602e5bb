"""The chart's tests: a real promtool, where there is one or Debian's package of it can be had.

Those that render the chart need Helm's engine, which only `make chart-test` has.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

collect_ignore = (
    [] if importlib.util.find_spec("helm_python") else ["test_check.py", "test_render.py", "test_ways.py"]
)
ROOT = Path(__file__).parents[2]

Promtool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Runs promtool with these arguments. Skips with the script's words where there is none."""
    found = subprocess.run([ROOT / "scripts" / "prometheus.sh"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    program = Path(found.stdout.strip()) / "promtool"

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, env={"PATH": "", "TZ": "UTC"}
        )

    return run
