"""Looked up, laid out and cast, once, into the buffer that was given."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.media import Blank, DataType, Looked, Shaped, Tensor
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
    (tensor,) = pack([Shaped.channels_first("pixel_values", PIXELS, TABLE)], {"pixel_values": data_type})
    expected = np.stack([TABLE[channel][PIXELS[:, :, channel]] for channel in range(3)])
    assert ("pixel_values", data_type, (3, 17, 23)) == (tensor.name, tensor.data_type, tensor.shape)
    assert np.array_equal(cast(expected, data_type), values(tensor))


@pytest.mark.parametrize("data_type", [*FLOATS, DataType.UINT8])
def test_bytes_are_laid_as_their_view_is_with_the_channel_at_any_axis(data_type: DataType) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (12, 20, 3), np.uint8)
    tiles = pixels.reshape(3, 4, 5, 4, 3)
    views = [
        (tiles.transpose(0, 2, 4, 1, 3), 2),
        (tiles.transpose(0, 2, 1, 3, 4), 4),
        (np.broadcast_to(tiles[:, :, np.newaxis], (3, 4, 2, 5, 4, 3)).transpose(0, 3, 5, 2, 1, 4), 2),
        (pixels[:1, :1], 2),
        (pixels[2:9, 3:8], 2),
    ]
    table = np.tile(np.arange(256, dtype=np.float32), (3, 1)) if data_type is DataType.UINT8 else TABLE
    for view, channel in views:
        item = Shaped("x", view.shape, (Looked(view, channel, table),))
        (tensor,) = pack([item], {"x": data_type})
        expected = np.stack([table[c][view.take(c, axis=channel)] for c in range(3)], axis=channel)
        assert np.array_equal(cast(expected, data_type), values(tensor))


def test_parts_lie_one_behind_another_and_blanks_are_zeros() -> None:
    looked = Looked(PIXELS.transpose(2, 0, 1), 0, TABLE)
    item = Shaped("x", (3, *PIXELS.transpose(2, 0, 1).shape), (looked, Blank(PIXELS.size), looked))
    (tensor,) = pack([item], {"x": DataType.FP32}, {"x": memoryview(bytearray(b"\xff" * 12 * PIXELS.size))})
    one = np.stack([TABLE[channel][PIXELS[:, :, channel]] for channel in range(3)])
    assert np.array_equal(np.stack([one, 0 * one, one]), values(tensor))


def test_bytes_for_a_model_that_normalises_are_laid_channel_first_and_bare() -> None:
    (tensor,) = pack([Shaped.channels_first("pixel_values", PIXELS, TABLE)], {"pixel_values": DataType.UINT8})
    assert np.array_equal(PIXELS.transpose(2, 0, 1), values(tensor))


@pytest.mark.parametrize("data_type", FLOATS)
def test_features_keep_their_layout_and_are_cast(data_type: DataType) -> None:
    features = np.random.default_rng(5).standard_normal((80, 30)).astype(np.float32)
    (tensor,) = pack([Shaped.of("input_features", features)], {"input_features": data_type})
    assert tensor.shape == (80, 30)
    assert np.array_equal(cast(features, data_type), values(tensor))


@pytest.mark.parametrize("data_type", [DataType.INT32, DataType.INT64, DataType.BOOL])
def test_masks_are_cast_to_any_type_of_integer(data_type: DataType) -> None:
    mask = np.array([1, 1, 0], np.int32)
    (tensor,) = pack([Shaped.of("attention_mask", mask)], {"attention_mask": data_type})
    assert mask.tolist() == values(tensor).astype(np.int32).tolist()


def test_tensors_lie_at_the_start_of_the_callers_buffers() -> None:
    shaped = [
        Shaped.channels_first("a", PIXELS, TABLE),
        Shaped.of("b", np.arange(5, dtype=np.float32)),
        Shaped.channels_first("c", PIXELS, TABLE),
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
    (tensor,) = pack([Shaped.of("x", np.array([1e6, -1e6], np.float32))], {"x": DataType.FP16})
    assert [np.inf, -np.inf] == values(tensor).astype(np.float64).tolist()


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1))
def test_bfloat16_is_rounded_to_nearest_even(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    expected, found = array.astype(ml_dtypes.bfloat16), bfloat16_bits(array).view(ml_dtypes.bfloat16)
    assert np.array_equal(np.isnan(expected), np.isnan(found))
    sure = ~np.isnan(expected)
    assert expected[sure].tobytes() == found[sure].tobytes()
