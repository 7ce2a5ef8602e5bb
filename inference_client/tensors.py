"""Plain values to the contract's tensors and back. One table; no I/O.

To the wire: an array keeps its dtype and shape. A bare number, text or list takes the element type
that the model declares for that input; without a declaration a whole number is INT64, another number
FP32, a truth value BOOL, text and bytes BYTES. A single value takes the declared rank ([1], [1, 1],
...), or [1] without a declaration. For a BF16 input, which numpy cannot express, float arrays are
rounded too (to nearest, ties to even).

From the wire: arrays are read-only views of the reply; `.copy()` gives one to write to. BF16 comes
as float32, which holds every BF16 value exactly. BYTES comes as an object array of bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from multimodal.v1 import media_pb2
from numpy.typing import DTypeLike, NDArray

from inference_client.errors import BadReply
from inference_client.results import TensorSpec

Scalar: TypeAlias = bool | int | float | str | bytes
# A list may nest: it is read as an array.
InputValue: TypeAlias = "Scalar | NDArray[Any] | np.generic | Sequence[Any]"

BYTES = "BYTES"
BF16 = "BF16"
# Little-endian, as the contract has it. BYTES and BF16 are no dtypes of numpy and are told apart below.
_DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in (
        ("BOOL", "?"),
        ("UINT8", "u1"),
        ("UINT16", "<u2"),
        ("UINT32", "<u4"),
        ("UINT64", "<u8"),
        ("INT8", "i1"),
        ("INT16", "<i2"),
        ("INT32", "<i4"),
        ("INT64", "<i8"),
        ("FP16", "<f2"),
        ("FP32", "<f4"),
        ("FP64", "<f8"),
    )
}
_NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in _DTYPES.items()}
# What bare values become without a declaration, by numpy's kind.
_DEFAULTS: Mapping[str, str] = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP32", "O": BYTES}
_LENGTH = struct.Struct("<I")


def type_name(data_type: int) -> str:
    """The element type's short name: "FP32", "BYTES"; "UNKNOWN" for one that a newer server sent."""
    try:
        return media_pb2.DataType.Name(media_pb2.DataType.ValueType(data_type)).removeprefix("DATA_TYPE_")
    except ValueError:
        return "UNKNOWN"


def type_number(data_type: str | DTypeLike | None) -> media_pb2.DataType.ValueType:
    """The contract's number for "FP32", numpy.float32 or "float32"; None: not stated.

    Raises ValueError for what is no element type.
    """
    if data_type is None:
        return media_pb2.DATA_TYPE_UNSPECIFIED
    is_name = isinstance(data_type, str) and data_type in {*_DTYPES, BF16, BYTES}
    return media_pb2.DataType.Value(f"DATA_TYPE_{data_type if is_name else _name_of(data_type)}")


def to_tensor(name: str, value: InputValue, spec: TensorSpec | None = None) -> media_pb2.Tensor:
    """The tensor that `value` makes for the input `name`, following `spec` as told above.

    Raises TypeError for a value that is no tensor, and ValueError for one that the declared type
    cannot hold.
    """
    array = _as_array(name, value)
    bare = not isinstance(value, (np.ndarray, np.generic))
    kind = _element_type(name, array, spec, bare=bare)
    if bare and array.ndim == 0:
        array = array.reshape([1] * len(spec.shape) if spec is not None else [1])
    shape = array.shape
    return media_pb2.Tensor(
        name=name,
        data_type=media_pb2.DataType.Value(f"DATA_TYPE_{kind}"),
        shape=shape,
        data=_pack(name, array, kind),
    )


def from_tensor(tensor: media_pb2.Tensor) -> NDArray[Any]:
    """The tensor's elements; see above for BF16 and BYTES. Raises BadReply if its parts contradict."""
    kind = type_name(tensor.data_type)
    shape = tuple(tensor.shape)
    count = math.prod(shape)
    data = tensor.data
    try:
        if kind == BYTES:
            flat = _unpack_bytes(data)
        elif kind == BF16:
            flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
            flat.flags.writeable = False
        else:
            flat = np.frombuffer(data, _DTYPES[kind])
        return flat.reshape(shape)
    except (KeyError, ValueError, struct.error) as error:
        raise BadReply(
            f"output {tensor.name!r} is said to be {kind} of shape {list(shape)}, {count} elements, "
            f"but came with {len(data)} bytes that do not fit. Update the client or the sidecar.",
        ) from error


def _name_of(data_type: DTypeLike) -> str:
    try:
        return _NAMES[np.dtype(data_type).newbyteorder("<")]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"data_type is one of {', '.join((*_DTYPES, BF16, BYTES))}, or numpy's dtype for one; "
            f"found {data_type!r}"
        ) from error


def _as_array(name: str, value: InputValue) -> NDArray[Any]:
    """Numbers as their array, texts and bytes as an object array of bytes."""
    if isinstance(value, (str, bytes)):
        return _bytes_array([value], ())
    array = np.asarray(value)
    if array.dtype.kind in "SUO":
        return _bytes_array(_texts(name, value, array), array.shape)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"input {name!r} is an array, a number, a text, bytes or a list of them; "
            f"found {type(value).__name__} of dtype {array.dtype}"
        )
    return array


def _texts(name: str, value: InputValue, array: NDArray[Any]) -> list[str | bytes]:
    """The elements of a list or array of texts, as they were: numpy's own conversion to S cuts zeros."""
    flat: list[Any] = list(_leaves(value)) if not isinstance(value, np.ndarray) else array.ravel().tolist()
    for element in flat:
        if not isinstance(element, (str, bytes)):
            raise TypeError(
                f"input {name!r} mixes {type(element).__name__} with texts, or is ragged; "
                "a list holds one kind of value, and its rows have one length"
            )
    return flat


def _leaves(value: Any) -> Iterator[Any]:  # noqa: ANN401 - a nested list has no better type
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _bytes_array(elements: Sequence[str | bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(elements), object)
    array[:] = [each.encode() if isinstance(each, str) else each for each in elements]
    return array.reshape(shape)


def _element_type(name: str, array: NDArray[Any], spec: TensorSpec | None, *, bare: bool) -> str:
    declared = spec.data_type if spec is not None else ""
    if declared == BF16 and array.dtype.kind == "f":
        return BF16
    if bare and not array.size:
        return declared or _DEFAULTS["f"]
    if bare:
        kind = declared or _DEFAULTS[array.dtype.kind]
        if (kind == BYTES) != (array.dtype.kind == "O") or (
            kind not in _DTYPES and kind not in {BYTES, BF16}
        ):
            raise TypeError(f"input {name!r} is {kind} in the model; found {_said(array)}")
        return kind
    if array.dtype.kind == "O":
        return BYTES
    kind = _NAMES.get(array.dtype.newbyteorder("<"), "")
    if not kind:
        raise TypeError(f"input {name!r} has dtype {array.dtype}; convert it to one of {', '.join(_DTYPES)}")
    return kind


def _pack(name: str, array: NDArray[Any], kind: str) -> bytes:
    if kind == BYTES:
        return b"".join(part for each in array.ravel().tolist() for part in (_LENGTH.pack(len(each)), each))
    target = np.dtype("<f4") if kind == BF16 else _DTYPES[kind]
    if array.dtype != target and array.size:
        _check_fits(name, array, target, kind)
    packed = np.ascontiguousarray(array, target)
    return (_to_bf16(packed) if kind == BF16 else packed).tobytes()


def _check_fits(name: str, array: NDArray[Any], target: np.dtype[Any], kind: str) -> None:
    """Bare values may become narrower, never another value: 1.5 is no INT32 and 300 is no UINT8."""
    fits = np.can_cast(array.dtype, target, "same_kind") or (array.dtype.kind == "i" and target.kind == "u")
    if fits and target.kind in "iu":
        limits = np.iinfo(target)
        fits = int(array.min()) >= limits.min and int(array.max()) <= limits.max
    if not fits:
        raise ValueError(f"input {name!r} is {kind} in the model, which cannot hold {_said(array)}")


def _to_bf16(values: NDArray[Any]) -> NDArray[Any]:
    """float32 to the bits of BF16, to nearest with ties to even; a NaN stays one."""
    bits = values.view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype("<u2")


def _unpack_bytes(data: bytes) -> NDArray[Any]:
    """Elements that carry their length in 4 bytes before them."""
    elements: list[str | bytes] = []
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise ValueError("an element runs past the end")
        elements.append(data[at : at + length])
        at += length
    array = _bytes_array(elements, (len(elements),))
    array.flags.writeable = False
    return array


def _said(array: NDArray[Any]) -> str:
    return f"{array.ravel()[:4].tolist()}{' ...' if array.size > 4 else ''} ({array.dtype})"  # noqa: PLR2004 - a taste
