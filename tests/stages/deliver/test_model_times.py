"""What TensorRT-LLM's outputs tell of its own time."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.media import DataType, Tensor
from sidecar.observe.timings import ModelTimes
from sidecar.stages.deliver.model_times import OUTPUTS, model_times


def told(*points: int, rows: int = 1) -> list[Tensor]:
    return [
        Tensor(name, DataType.INT64, (rows,), np.array([at] + [7] * (rows - 1), np.int64).tobytes())
        for name, at in zip(OUTPUTS, points, strict=False)
    ]


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ((100, 110, 150, 400), ModelTimes(10, 40, 250)),
        ((100, 110, 150), ModelTimes(10, 40, 0)),
        ((100, 110, 0, 0), ModelTimes(10, 0, 0)),
        ((100, 90, 150, 150), ModelTimes(0, 60, 0)),
        ((0, 0, 0, 0), None),
        ((), None),
    ],
)
def test_spans_lie_between_the_points_that_there_are(
    points: tuple[int, ...], wanted: ModelTimes | None
) -> None:
    assert model_times(told(*points)) == wanted


def test_of_a_batch_the_first_row_counts() -> None:
    assert model_times(told(1, 2, 4, 8, rows=3)) == ModelTimes(1, 2, 4)


def test_outputs_of_that_name_but_another_type_tell_nothing() -> None:
    text = Tensor("arrival_time_ns", DataType.BYTES, (1,), b"\x03\x00\x00\x00abc")
    empty = Tensor("last_token_time_ns", DataType.INT64, (0,), b"")
    assert model_times([text, empty]) is None
