"""What a model tells of its own time: TensorRT-LLM's outputs of that name, among those of an answer. Pure.

They are points of the model server's clock, which is not ours; only what lies between two of them is told on.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from sidecar.media import DataType, Tensor
from sidecar.observe.timings import ModelTimes

OUTPUTS: Final = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
"""INT64 each, of its first row what counts; 0 where the model was not asked for them, or has not come so far."""
_BYTES: Final = 8


def model_times(outputs: Iterable[Tensor]) -> ModelTimes | None:
    """Where the model's time went; None where it does not tell."""
    told = {
        output.name: int.from_bytes(memoryview(output.data).cast("B")[:_BYTES], "little", signed=True)
        for output in outputs
        if output.name in OUTPUTS and output.data_type is DataType.INT64
    }
    points = [told.get(name, 0) for name in OUTPUTS]
    spans = [max(0, end - begun) if begun > 0 and end > 0 else 0 for begun, end in pairwise(points)]
    return ModelTimes(*spans) if any(points) else None
