"""`sidecar bench NAME`: a benchmark anyone can run; its figures are ratios within one run.

The benchmarks live in the checkout's `bench` package, which an installed server does not carry.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from sidecar.errors import SettingsError


def bench(name: str, *, as_json: bool, rounds: int | None = None) -> int:
    """Runs one benchmark, with so many rounds or as many as it has, and prints it.

    Returns 0, or 1 when one of its targets does not hold.
    """
    try:
        names: Sequence[str] = importlib.import_module("bench").NAMES
        run = importlib.import_module(f"bench.{name}").run if name in names else None
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"benchmarks cannot run here ({error}): run them in a checkout of the project, with `make setup` done",
            key="bench",
            value=name,
        ) from error
    if run is None:
        raise SettingsError(
            f"there is no benchmark {name!r}; there are: {', '.join(names)}",
            key="bench",
            value=name,
            allowed=", ".join(names),
        )
    result: dict[str, Any] = run() if rounds is None else run(rounds)
    print(json.dumps(result, indent=2) if as_json else text(result))  # noqa: T201 - a command's output
    return 0 if all(target["holds"] for target in result["targets"]) else 1


def text(result: dict[str, Any]) -> str:
    """A benchmark's cases, and its targets where it has some, for people."""
    lines = [f"{result['name']} on {result['machine']['cpu']}, {result['machine']['cores']} cores"]
    for case in result["cases"]:
        figures = ", ".join(
            f"{key} {value:g}" for key, value in case.items() if isinstance(value, int | float)
        )
        lines.append(f"  {case['case']}: {figures}")
    for target in result["targets"]:
        mark = "holds" if target["holds"] else "MISSED"
        lines.append(f"  {mark}: {target['target']}: {target['figure']:g} (bound {target['bound']})")
    return "\n".join(lines)
