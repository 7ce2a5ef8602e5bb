"""Two workers on two cores against one worker on one, as rates, and by the core-seconds that there were.

The server with one worker is pinned to one core, and the load and Triton to the other. Two workers have both
cores, and share them with the load and Triton. What those spend there is not the server's to use, so a rate
is counted by the core-seconds that were left to it: images / (cores * seconds - CPU seconds of the others), times the
cores. Seconds in which the server leaves a core idle count against it. The plain ratio of the rates is told beside it.
"""

from __future__ import annotations

import os
from typing import Any

from bench.load import median
from bench.processes import pin, since, spent
from bench.rig import CORES, Rig, laps

SIZE = "1920x1080"
SECONDS = 2.0


def scaling(rig: Rig) -> dict[str, Any]:
    """The ratio of the two; a machine with one core has none, and no target then."""
    case: dict[str, Any] = {"case": f"two workers on two cores against one on one, JPEG {SIZE} to 224, Infer"}
    case["kind"] = "scaling"
    if len(rig.cores) < CORES:
        return {**case, "why": "this process may use one core only"}
    # The server, the cores that it has, and those of the others.
    setups = {
        "one": ("one", rig.cores[:1], rig.cores[1:]),
        "two": ("processes", rig.cores, rig.cores),
    }
    loads = {name: rig.load(server, SIZE, 224) for name, (server, _, _) in setups.items()}
    others = (os.getpid(), rig.triton.pid)
    pin(rig.cores[:1], rig.servers["one"].pid)
    lap = loads["one"].lap
    rate = rig.rate(loads["one"], SECONDS)
    plain: list[dict[str, float]] = []
    counted: list[dict[str, float]] = []
    for number in range(rig.rounds):
        plain.append({})
        counted.append({})
        for name in reversed(setups) if number % 2 else setups:
            _, cores, others_cores = setups[name]
            pin(others_cores, *others)
            count = laps(rate * SECONDS * len(cores), lap)
            seconds, before, after = rig.closed(loads[name], count, lambda: _own_and_triton(rig))
            taken = since(before, after) / 1e9 if set(cores) & set(others_cores) else 0.0
            plain[-1][name] = count / seconds
            counted[-1][name] = count / (len(cores) * seconds - taken) * len(cores)
    pin(rig.cores, *others, rig.servers["one"].pid)
    return {
        **case,
        "one_per_s": round(median([each["one"] for each in plain]), 1),
        "two_per_s": round(median([each["two"] for each in plain]), 1),
        "two_per_s_of_cores_left": round(median([each["two"] for each in counted]), 1),
        "plain_scaling": round(median([each["two"] / each["one"] for each in plain]), 3),
        "scaling": round(median([each["two"] / each["one"] for each in counted]), 3),
    }


def _own_and_triton(rig: Rig) -> dict[int, int]:
    """CPU of the load, which is this process alone, and of Triton's tree."""
    own = os.getpid()
    return {own: spent(own)[own], **spent(rig.triton.pid)}
