"""Looked up, laid out and cast, once, into the buffer that was given."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.media import DataType, Shaped, Tensor
from sidecar.stages.pack import bfloat16_bits, pack, packed_bytes

FLOATS = [DataType.FP32, DataType.FP16, DataType.BF16]
TABLE: npt.NDArray[np.float32] = np.linspace(-40, 70, 768, dtype=np.float32).reshape(3, 256)
PIXELS = np.random.default_rng(3).integers(0, 256, (17, 23, 3), np.uint8)


def values(tensor: Tensor) -> npt.NDArray[np.generic]:
    return np.frombuffer(tensor.data, tensor.data_type.storage).reshape(tensor.shape)


def cast(array: npt.NDArray[np.float32], data_type: DataType) -> npt.NDArray[np.generic]:
    """The same by other means: numpy's FP16, and BF16 as the ml_dtypes library has it."""
    if data_type is DataType.BF16:
        return array.astype(ml_dtypes.bfloat16).view(np.uint16)
    return array.astype(data_type.storage)


@pytest.mark.parametrize("data_type", FLOATS)
def test_bytes_are_looked_up_by_channel_and_laid_channel_first(data_type: DataType) -> None:
    (tensor,) = pack([Shaped("pixel_values", PIXELS, TABLE)], {"pixel_values": data_type})
    expected = np.stack([TABLE[channel][PIXELS[:, :, channel]] for channel in range(3)])
    assert ("pixel_values", data_type, (3, 17, 23)) == (tensor.name, tensor.data_type, tensor.shape)
    assert np.array_equal(cast(expected, data_type), values(tensor))


def test_bytes_for_a_model_that_normalises_are_laid_channel_first_and_bare() -> None:
    (tensor,) = pack([Shaped("pixel_values", PIXELS, TABLE)], {"pixel_values": DataType.UINT8})
    assert np.array_equal(PIXELS.transpose(2, 0, 1), values(tensor))


@pytest.mark.parametrize("data_type", FLOATS)
def test_features_keep_their_layout_and_are_cast(data_type: DataType) -> None:
    features = np.random.default_rng(5).standard_normal((80, 30)).astype(np.float32)
    (tensor,) = pack([Shaped("input_features", features)], {"input_features": data_type})
    assert tensor.shape == (80, 30)
    assert np.array_equal(cast(features, data_type), values(tensor))


@pytest.mark.parametrize("data_type", [DataType.INT32, DataType.INT64, DataType.BOOL])
def test_masks_are_cast_to_any_type_of_integer(data_type: DataType) -> None:
    mask = np.array([1, 1, 0], np.int32)
    (tensor,) = pack([Shaped("attention_mask", mask)], {"attention_mask": data_type})
    assert mask.tolist() == values(tensor).astype(np.int32).tolist()


def test_tensors_lie_at_the_start_of_the_callers_buffers() -> None:
    shaped = [
        Shaped("a", PIXELS, TABLE),
        Shaped("b", np.arange(5, dtype=np.float32)),
        Shaped("c", PIXELS, TABLE),
    ]
    types = {"a": DataType.UINT8, "b": DataType.FP32, "c": DataType.BF16}
    needed = packed_bytes(shaped, types)
    buffers = {
        name: memoryview(bytearray(nbytes + spare)) for spare, (name, nbytes) in enumerate(needed.items())
    }
    inside, own = pack(shaped, types, buffers), pack(shaped, types)
    for tensor, alone in zip(inside, own, strict=True):
        assert bytes(alone.data) == bytes(tensor.data)
        assert bytes(buffers[tensor.name][: needed[tensor.name]]) == bytes(tensor.data)
        assert isinstance(tensor.data, memoryview)
        assert tensor.data.obj is buffers[tensor.name].obj


def test_values_that_fp16_cannot_hold_become_infinite_and_raise_nothing() -> None:
    (tensor,) = pack([Shaped("x", np.array([1e6, -1e6], np.float32))], {"x": DataType.FP16})
    assert [np.inf, -np.inf] == values(tensor).astype(np.float64).tolist()


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1))
def test_bfloat16_is_rounded_to_nearest_even(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    expected, found = array.astype(ml_dtypes.bfloat16), bfloat16_bits(array).view(ml_dtypes.bfloat16)
    assert np.array_equal(np.isnan(expected), np.isnan(found))
    sure = ~np.isnan(expected)
    assert expected[sure].tobytes() == found[sure].tobytes()
