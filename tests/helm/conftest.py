"""A real promtool, where there is one or Debian's package of it can be had."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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
