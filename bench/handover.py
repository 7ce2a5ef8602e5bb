"""What handing a tensor over to the model server takes, raw over gRPC and by shared memory.

It is the p50 of an inference with the payload less the p50 of one with 16 bytes over the same path, by the
sidecar's own upstream (`bench.upstream`), against a model that gives one number back.
"""

from __future__ import annotations

from typing import Any

from bench.load import median, percentile
from bench.rig import Rig

EMPTY = 16
PAYLOADS = {"0.6 MB": 4 * 3 * 224 * 224, "4.8 MB": 8 * 4 * 3 * 224 * 224}
"""Bytes: FP32 [3, 224, 224], and eight of them."""

PATHS = ("raw", "shared")
BLOCKS = 20


def handover(rig: Rig) -> list[dict[str, Any]]:
    """A case a payload; the figures of each path are medians of the rounds."""
    sizes = (EMPTY, *PAYLOADS.values())
    p50s: list[dict[tuple[str, int], float]] = []
    for number in range(rig.rounds):
        p50s.append({})
        for path in reversed(PATHS) if number % 2 else PATHS:
            taken = rig.upstream.ask(path=path, address=rig.triton.grpc_address, sizes=sizes, blocks=BLOCKS)
            p50s[-1] |= {
                (path, nbytes): percentile(each, 50) / 1e3 for nbytes, each in zip(sizes, taken, strict=True)
            }
    cases = []
    for name, nbytes in PAYLOADS.items():
        payload = {path: [each[path, nbytes] - each[path, EMPTY] for each in p50s] for path in PATHS}
        case: dict[str, Any] = {"case": f"hand-over of {name} to Triton", "kind": "handover", "payload": name}
        case |= {f"{path}_us": round(median(payload[path]), 1) for path in PATHS}
        case |= {f"{path}_empty_us": round(median([each[path, EMPTY] for each in p50s]), 1) for path in PATHS}
        # Less than a microsecond is noise, and nothing to divide by.
        ratios = [
            raw / max(shared, 1.0) for raw, shared in zip(payload["raw"], payload["shared"], strict=True)
        ]
        case |= {"raw_over_shared": round(median(ratios), 2), "bytes": nbytes, "sink": rig.sink}
        cases.append(case)
    return cases
