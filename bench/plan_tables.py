"""The plan's and the tuner's results as the docs show them. Reads results only."""

from __future__ import annotations

from bench.markdown import Result, table
from bench.verdict_tables import target_lines

_POOLS = ("image", "audio")


def sweep(result: Result) -> str:
    """Every static plan beside the default."""
    default = result["default"]
    own = ", ".join(f"{default[f'threads.{pool}']} {pool}" for pool in _POOLS)
    lines = [
        "| load | image threads | audio threads | work, by the default's |",
        "| --- | --- | --- | --- |",
    ]
    for case in result["cases"]:
        threads = " | ".join(str(case.get(pool, default[f"threads.{pool}"])) for pool in _POOLS)
        lines.append(f"| {case['sweep']} | {threads} | {case['by_default']:.2f} |")
    return "\n".join([*lines, "", f"The default here is {own} threads."])


def targets(result: Result) -> str:
    """What had to be reached, and on what it was found."""
    machine = result["machine"]
    where = f"On {machine['cores']} cores of an {machine['cpu']}. `make bench` measures anew."
    return "\n".join([*target_lines(result), "", where])


def settles(result: Result) -> str:
    """Where the tuner came to, from where, and how good that is."""
    rows = [
        (case["case"].removeprefix("from "), case["plan"], f"{case['beside_best']:.2f}")
        for case in result["cases"]
        if case["kind"] in {"settles", "resized"}
    ]
    return table(("began with", "came to", "work, by the best static plan's"), rows)
