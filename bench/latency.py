"""Latency at a load that the server can bear: open loop, Poisson, from the scheduled moment of each call."""

from __future__ import annotations

from typing import Any

from bench.load import Latencies, percentile, poisson
from bench.rig import Rig

LOAD = 0.7
"""Of the capacity that a closed loop found just before."""

CAPACITY_SECONDS = 2.5
SECONDS = 4.0


def latency(rig: Rig, size: str) -> dict[str, Any]:
    """p50 and p99 of inferences, over the calls of all rounds together."""
    load = rig.load("processes", size, 224)
    capacity = rig.rate(load, CAPACITY_SECONDS)
    found = Latencies((), ())
    for seed in range(rig.rounds):
        found += rig.loop.run(load.open(poisson(LOAD * capacity, SECONDS, seed)))
    return {
        "case": f"JPEG {size} to 224, Infer, at {LOAD:.0%} of capacity",
        "kind": "latency",
        "size": size,
        "capacity_per_s": round(capacity, 1),
        "offered_per_s": round(LOAD * capacity, 1),
        "calls": len(found.taken_s),
        "p50_ms": round(percentile(found.taken_s, 50) * 1e3, 2),
        "p99_ms": round(percentile(found.taken_s, 99) * 1e3, 2),
        "lag_p99_ms": round(percentile(found.lag_s, 99) * 1e3, 3),
    }
