"""The inside of a tensor's bytes: do they hold what its type and shape promise, and what is in BYTES.

Pure. A contradiction is told as a sentence, not raised: whose fault it is depends on who made the
tensor, and that only the reader knows. Nothing here copies elements except `encode` and `decode`.

Layout of BYTES, as Triton has it: every element is its length in 4 bytes, little-endian, and then
that many bytes; elements follow each other without padding, row-major.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from sidecar.media import DataType, Tensor
from sidecar.stages.deliver.naming import shape_words, tensor_words

_LENGTH = struct.Struct("<I")


def encode(values: Iterable[bytes]) -> bytes:
    """Byte strings, each below 4 GiB, to the data of a BYTES tensor."""
    parts: list[bytes] = []
    for value in values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def decode(tensor: Tensor) -> list[bytes]:
    """The byte strings of a BYTES tensor in which `fault` finds nothing; empty if it would."""
    view, begin, values = memoryview(tensor.data), 0, []
    for end in ends(tensor) or ():
        values.append(bytes(view[begin + _LENGTH.size : end]))
        begin = end
    return values


def ends(tensor: Tensor) -> list[int] | None:
    """Where each element of a BYTES tensor ends, in bytes from the start of its data.

    None unless the data is exactly the elements of its shape. No more of them are walked than the
    shape has or the data can hold.
    """
    total = tensor.nbytes
    if tensor.elements * _LENGTH.size > total:
        return None
    found, at = [], 0
    for _ in range(tensor.elements):
        if at + _LENGTH.size > total:
            return None
        at += _LENGTH.size + _LENGTH.unpack_from(tensor.data, at)[0]
        found.append(at)
    return found if at == total else None


def fault(tensor: Tensor) -> str | None:
    """What contradicts between a tensor's type, shape and data, as the end of a sentence; None if nothing."""
    if any(length < 0 for length in tensor.shape):
        return f"has a negative length in its shape {shape_words(tensor.shape)}"
    if tensor.data_type is DataType.BYTES:
        if ends(tensor) is None:
            return (
                f"holds {tensor.nbytes} bytes, which are not the elements of {tensor_words(tensor)}, "
                "each a 4-byte little-endian length and that many bytes"
            )
        return None
    needed = tensor.elements * tensor.data_type.itemsize
    if tensor.nbytes != needed:
        return f"holds {tensor.nbytes} bytes where {tensor_words(tensor)} takes {needed}"
    return None
