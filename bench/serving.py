"""What a served picture costs in CPU time, beside the bare work: by worker processes, and by threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.load import median
from bench.processes import Spent, since, spent
from bench.rig import SERVERS, Rig, laps

# Of the clock, for each of a round's three measurements.
SECONDS = 1.0

_Figures = dict[str, float]


def serving(rig: Rig, size: str, side: int, verb: str) -> dict[str, Any]:
    """CPU milliseconds an image, bare and served, and their ratios."""
    pictures = rig.pictures[size]
    loads = {name: rig.load(name, size, side, verb) for name in ("processes", "threads")}
    threads = SERVERS["processes"].threads
    bare = partial(
        rig.bare.ask,
        checkpoint=str(rig.checkpoints[side]),
        pictures=[str(path) for path in pictures],
        threads=threads,
    )
    bare(count=len(pictures))
    lap_ns = bare(count=len(pictures))["cpu_ns"] / threads
    count = laps(SECONDS * 1e9 / lap_ns * len(pictures), len(pictures))

    def of_bare(figures: _Figures) -> None:
        figures["bare"] = bare(count=count)["cpu_ns"] / count / 1e6

    def of_served(name: str, figures: _Figures) -> None:
        front = rig.servers[name].pid

        def read() -> tuple[Spent, Spent]:
            return spent(front), spent(rig.triton.pid)

        seconds, before, after = rig.closed(loads[name], count, read)
        figures[name] = since(before[0], after[0]) / count / 1e6
        figures[f"{name} front"] = since(before[0], after[0], [front]) / count / 1e6
        figures[f"{name} triton"] = since(before[1], after[1]) / count / 1e6
        figures[f"{name} rate"] = count / seconds

    steps: list[Callable[[_Figures], None]] = [of_bare, *(partial(of_served, name) for name in loads)]
    rounds: list[_Figures] = []
    for number in range(rig.rounds):
        rounds.append({})
        for step in reversed(steps) if number % 2 else steps:
            step(rounds[-1])
    middle = {key: median([each[key] for each in rounds]) for key in rounds[0]}

    def ratio(above: str, below: str) -> float:
        return round(median([each[above] / each[below] for each in rounds]), 3)

    return {
        "case": f"JPEG {size} to {side}, {verb}",
        "kind": "serving",
        "size": size,
        "side": side,
        "verb": verb,
        "encoded_kib": round(sum(path.stat().st_size for path in pictures) / len(pictures) / 1024),
        "bare_cpu_ms": round(middle["bare"], 3),
        "served_cpu_ms": round(middle["processes"], 3),
        "front_cpu_ms": round(middle["processes front"], 3),
        "workers_cpu_ms": round(middle["processes"] - middle["processes front"], 3),
        "efficiency": ratio("bare", "processes"),
        "threads_cpu_ms": round(middle["threads"], 3),
        "threads_efficiency": ratio("bare", "threads"),
        "processes_over_threads": ratio("processes", "threads"),
        "triton_cpu_ms": round(middle["processes triton"], 3),
        "images_per_s": round(middle["processes rate"], 1),
        "images_a_round": count,
    }
