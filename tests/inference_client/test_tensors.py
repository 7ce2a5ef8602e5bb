"""Plain values to tensors and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from multimodal.v1 import media_pb2

from inference_client import BadReply, TensorSpec
from inference_client.tensors import from_tensor, to_tensor

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def spec(data_type: str, *shape: int) -> TensorSpec:
    return TensorSpec("x", data_type, shape)


def sent(value: Any, declared: TensorSpec | None = None) -> tuple[str, list[int], Any]:
    """Type, shape and values of what `value` becomes on the wire."""
    tensor = to_tensor("x", value, declared)
    kind = media_pb2.DataType.Name(tensor.data_type).removeprefix("DATA_TYPE_")
    return kind, list(tensor.shape), from_tensor(tensor).tolist()


@given(st.sampled_from(DTYPES).flatmap(lambda code: arrays.arrays(code, arrays.array_shapes(min_dims=0))))
def test_an_array_comes_back_as_it_went(array: np.ndarray[Any, Any]) -> None:
    back = from_tensor(to_tensor("x", array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=5)))
def test_bytes_come_back_as_they_went_zeros_and_all(values: list[bytes]) -> None:
    assert from_tensor(to_tensor("x", values, spec("BYTES", -1))).tolist() == values


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (3, ("INT64", [1], [3])),
        (0.5, ("FP32", [1], [0.5])),
        (True, ("BOOL", [1], [True])),
        ("né", ("BYTES", [1], ["né".encode()])),
        (b"\0a\0", ("BYTES", [1], [b"\0a\0"])),
        ([1, 2], ("INT64", [2], [1, 2])),
        ([1, 2.5], ("FP32", [2], [1.0, 2.5])),
        ([["a"], [b"b\0"]], ("BYTES", [2, 1], [[b"a"], [b"b\0"]])),
        ([], ("FP32", [0], [])),
        (np.int8(3), ("INT8", [], 3)),
        (np.array(["a", "bc"]), ("BYTES", [2], [b"a", b"bc"])),
        (np.array([[1, 2]], ">i4"), ("INT32", [1, 2], [[1, 2]])),
    ],
)
def test_without_a_declaration_a_value_speaks_for_itself(value: Any, becomes: Any) -> None:
    assert sent(value) == becomes


@pytest.mark.parametrize(
    ("value", "declared", "becomes"),
    [
        (3, spec("INT32", 1), ("INT32", [1], [3])),
        (3, spec("FP16", 1, 1), ("FP16", [1, 1], [[3.0]])),
        (3, spec("UINT8"), ("UINT8", [], 3)),
        (True, spec("INT32", 1), ("INT32", [1], [1])),
        ([1.0, 2.5], spec("FP64", -1), ("FP64", [2], [1.0, 2.5])),
        ("a", spec("BYTES", 1, 1), ("BYTES", [1, 1], [[b"a"]])),
        ([], spec("INT64", -1), ("INT64", [0], [])),
        ([], spec("BYTES", -1), ("BYTES", [0], [])),
        (1.0, spec("BF16", 1), ("BF16", [1], [1.0])),
        (1, spec("BF16", 1), ("BF16", [1], [1.0])),
        (np.array([1.0]), spec("BF16", 1), ("BF16", [1], [1.0])),
        (np.array([1], np.int8), spec("FP32", 1), ("INT8", [1], [1])),
    ],
)
def test_a_plain_value_takes_the_declared_type_and_an_array_keeps_its_own(
    value: Any, declared: TensorSpec, becomes: Any
) -> None:
    assert sent(value, declared) == becomes


@pytest.mark.parametrize(
    ("value", "declared", "error"),
    [
        (1.5, spec("INT32", 1), ValueError),
        (300, spec("UINT8", 1), ValueError),
        (-1, spec("UINT64", 1), ValueError),
        (2**40, spec("INT32", 1), ValueError),
        (2**63, None, ValueError),
        ("a", spec("INT32", 1), TypeError),
        (1, spec("BYTES", 1), TypeError),
        (1, spec("UNKNOWN", 1), TypeError),
        ([1, "a"], spec("INT32", -1), TypeError),
        ([None], None, TypeError),
        (1j, None, TypeError),
        (np.array(["2020-01-01"], "datetime64[D]"), None, TypeError),
        (np.array([1.0], np.longdouble), None, TypeError),
    ],
)
def test_what_a_type_cannot_hold_is_refused_by_the_inputs_name(
    value: Any, declared: TensorSpec | None, error: type[Exception]
) -> None:
    with pytest.raises(error, match="input 'x'"):
        to_tensor("x", value, declared)


@given(arrays.arrays(np.float32, 16, elements=st.floats(width=32)))
def test_floats_round_to_bf16_as_its_reference_does(values: np.ndarray[Any, Any]) -> None:
    expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(from_tensor(to_tensor("x", values, spec("BF16", 16))), expected, equal_nan=True)


def test_every_bf16_comes_as_the_float32_of_the_same_value() -> None:
    bits = np.arange(2**16, dtype="<u2")
    message = media_pb2.Tensor(data_type=media_pb2.DATA_TYPE_BF16, shape=[2**16], data=bits.tobytes())
    got = from_tensor(message)
    assert got.dtype == np.float32
    assert np.array_equal(got, bits.view(ml_dtypes.bfloat16).astype(np.float32), equal_nan=True)


def test_arrays_from_the_wire_are_read_only() -> None:
    for value in (np.zeros(2, np.float32), ["a"]):
        assert not from_tensor(to_tensor("x", value)).flags.writeable


@pytest.mark.parametrize(
    "broken",
    [
        {"data_type": media_pb2.DATA_TYPE_FP32, "shape": [2], "data": b"1234"},
        {"data_type": media_pb2.DATA_TYPE_FP32, "shape": [1], "data": b"123"},
        {"data_type": media_pb2.DATA_TYPE_BF16, "shape": [1], "data": b"1"},
        {"data_type": media_pb2.DATA_TYPE_BYTES, "shape": [1], "data": b"\2\0\0\0a"},
        {"data_type": media_pb2.DATA_TYPE_BYTES, "shape": [1], "data": b"\2\0"},
        {"data_type": media_pb2.DATA_TYPE_UNSPECIFIED, "shape": [1], "data": b"1"},
        {"data_type": 99, "shape": [1], "data": b"1"},
    ],
)
def test_a_tensor_whose_parts_contradict_is_a_bad_reply(broken: Any) -> None:
    with pytest.raises(BadReply, match="output 'y'"):
        from_tensor(media_pb2.Tensor(name="y", **broken))
