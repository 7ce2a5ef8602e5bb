"""Shaped arrays to dense tensors in their final type and layout, each element written once.

Bytes with a value table are looked up, moved to where the model wants them and cast in one pass, straight
into the buffers that the caller owns (or into ones made here). The cast is applied to the 256 entries of the
table, never to the pixels. Pack does not check that a type fits the model: the recipe's `accepts` was asked
at start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.media import Blank, DataType, Looked, Part, Shaped, Tensor, Verbatim
from sidecar.stages.kernels import look_up, sealed

_BARE = np.arange(256, dtype=np.uint8)


def packed_bytes(shaped: Sequence[Shaped], data_types: Mapping[str, DataType]) -> Mapping[str, int]:
    """How many bytes `pack` writes for each output."""
    return {item.name: _nbytes(item, data_types[item.name]) for item in shaped}


def pack(
    shaped: Sequence[Shaped], data_types: Mapping[str, DataType], out: Mapping[str, memoryview] | None = None
) -> tuple[Tensor, ...]:
    """One tensor a Shaped, in the same order, in the types that `data_types` names by output.

    `out` has a writable buffer for each output, of at least its `packed_bytes`, at whose start its tensor
    then lies; None makes them. UINT8 with a table is the bare bytes (the model normalises). FP16 is rounded as
    numpy casts, BF16 to the nearest, ties to even, and kept as uint16 bits.
    """
    tensors = []
    for item in shaped:
        data_type, nbytes = data_types[item.name], _nbytes(item, data_types[item.name])
        data = memoryview(bytearray(nbytes)) if out is None else out[item.name][:nbytes]
        target = np.frombuffer(data, _storage(data_type))
        for part in item.parts:
            count = _elements(part)
            _write(part, data_type, target[:count])
            target = target[count:]
        tensors.append(Tensor(item.name, data_type, item.shape, data))
    return tuple(tensors)


def _storage(data_type: DataType) -> np.dtype[np.generic]:
    """What elements are written as; BYTES as the bytes that they are."""
    return np.dtype(np.uint8) if data_type is DataType.BYTES else data_type.storage


def _nbytes(item: Shaped, data_type: DataType) -> int:
    if data_type is DataType.BYTES:
        return sum(_elements(part) for part in item.parts)
    return math.prod(item.shape) * data_type.itemsize


def _elements(part: Part) -> int:
    match part:
        case Looked(view):
            return view.size
        case Blank(count):
            return count
        case Verbatim(data):
            return len(data)
        case _:
            return part.size


def _write(part: Part, data_type: DataType, target: npt.NDArray[Any]) -> None:
    """Fills `target`, one axis of as many elements as the part has."""
    match part:
        case Looked():
            _look_up(part, data_type, target)
        case Blank():
            target[:] = 0
        case Verbatim(data):
            target[:] = np.frombuffer(data, np.uint8)
        case _:
            target.reshape(part.shape)[...] = _cast(part, data_type)


def _look_up(part: Looked, data_type: DataType, target: npt.NDArray[Any]) -> None:
    table = (
        np.tile(_BARE, (len(part.table), 1)) if data_type is DataType.UINT8 else _cast(part.table, data_type)
    )
    # Elements are moved and never read, so types of one width share a kernel.
    bits = np.dtype(f"u{data_type.itemsize}")
    if part.view.size:
        look_up(
            _flat(part.view), sealed(table.view(bits)), target.view(bits), *_walk(part.view, part.channel)
        )


def _flat(view: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The memory from a view's first element to its last, read-only. Its strides must not be negative."""
    reach = 1 + sum((length - 1) * step for length, step in zip(view.shape, view.strides, strict=True))
    return np.lib.stride_tricks.as_strided(view, (reach,), (1,), writeable=False)


def _walk(view: npt.NDArray[np.uint8], channel: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Lengths, steps in the view and steps in the output, by axis, the channel first.

    Axes that follow one another in both memories become one, so that the innermost loop is long.
    """
    steps = [math.prod(view.shape[axis + 1 :]) for axis in range(view.ndim)]
    axes = list(zip(view.shape, view.strides, steps, strict=True))
    first = axes.pop(channel)
    joined: list[tuple[int, int, int]] = []
    for length, step, out_step in axes:
        if joined and joined[-1][1:] == (length * step, length * out_step):
            joined[-1] = (joined[-1][0] * length, step, out_step)
        elif length > 1:
            joined.append((length, step, out_step))
    lengths, inner, outer = zip(first, *(joined or [(1, 1, 1)]), strict=True)
    return np.array(lengths, np.int64), np.array(inner, np.int64), np.array(outer, np.int64)


def _cast(array: npt.NDArray[Any], data_type: DataType) -> npt.NDArray[Any]:
    if data_type is DataType.BF16:
        return bfloat16_bits(array.astype(np.float32, copy=False))
    # Values past a type's range become infinite there (FP16), as they do in every framework's cast.
    with np.errstate(over="ignore"):
        return array.astype(data_type.storage, copy=False)


def bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 values, rounded to nearest, ties to even; NaN stays a quiet NaN.

    Adding 0x7FFF plus the lowest kept bit carries into the kept half exactly where rounding goes up.
    """
    bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    rounded = (
        (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    ).astype(np.uint16)
    quiet = (bits >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return np.where(np.isnan(values), quiet, rounded)
