"""Shaped arrays to dense tensors in their final type and layout, each element written once.

Bytes with a value table are looked up, moved from height-width-channel to channel-height-width and cast in
one pass, straight into the buffers that the caller owns (or into ones made here). The cast is applied to the
256 entries of the table, never to the pixels. Pack does not check that a type fits the model: the recipe's
`accepts` was asked at start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.media import DataType, Shaped, Tensor
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
    then lies; None makes them. An output with a value table comes out as [channels, height, width]; UINT8
    with a table is the bare bytes (the model normalises). FP16 is rounded as numpy casts, BF16 to the
    nearest, ties to even, and kept as uint16 bits.
    """
    tensors = []
    for item in shaped:
        data_type = data_types[item.name]
        shape, nbytes = _shape(item), _nbytes(item, data_type)
        data = memoryview(bytearray(nbytes)) if out is None else out[item.name][:nbytes]
        _write(item, data_type, np.ndarray(shape, data_type.storage, data))
        tensors.append(Tensor(item.name, data_type, shape, data))
    return tuple(tensors)


def _shape(item: Shaped) -> tuple[int, ...]:
    if item.table is None:
        return item.array.shape
    height, width, channels = item.array.shape
    return channels, height, width


def _nbytes(item: Shaped, data_type: DataType) -> int:
    return item.array.size * data_type.itemsize


def _write(item: Shaped, data_type: DataType, target: npt.NDArray[Any]) -> None:
    if item.table is None:
        target[...] = _cast(item.array, data_type)
        return
    channels = len(item.table)
    table = np.tile(_BARE, (channels, 1)) if data_type is DataType.UINT8 else _cast(item.table, data_type)
    # Elements are moved and never read, so types of one width share a kernel.
    bits = np.dtype(f"u{data_type.itemsize}")
    look_up(
        sealed(np.ascontiguousarray(item.array).view(np.uint8).reshape(-1, channels)),
        sealed(table.view(bits)),
        target.view(bits).reshape(channels, -1),
    )


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
