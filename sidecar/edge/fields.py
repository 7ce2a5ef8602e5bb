"""A walk over the fields of a serialised message that copies none of them. Pure.

What cannot be walked, for it is malformed or of more fields than are worth a microsecond each, is left to protobuf
whole: nothing here decides what is an error.
"""

from __future__ import annotations

from typing import Final

Part = bytes | memoryview
Field = tuple[int, memoryview, memoryview | None]
"""A field's number, all of its bytes, and its content where it is length-delimited."""

LENGTH_DELIMITED: Final = 2
"""The wire type of bytes, texts and messages."""
_MOST_VARINT_BITS: Final = 63
_MOST_KEY: Final = 0xFFFFFFFF


def fields(view: memoryview, most: int) -> list[Field] | None:
    """The fields in their order; None where there are more than `most`, or one is of a fixed width or ends too late."""
    found: list[Field] = []
    at, end = 0, len(view)
    while at < end:
        tag = _varint(view, at)
        # Readers in other languages cut a longer key to 32 bits, and would see another field than is seen here.
        if len(found) >= most or tag is None or tag[0] > _MOST_KEY:
            return None
        key, begin = tag
        content = None
        if key & 7 == LENGTH_DELIMITED:
            length = _varint(view, begin)
            if length is None or length[1] + length[0] > end:
                return None
            content = view[length[1] : length[1] + length[0]]
            stop = length[1] + length[0]
        elif key & 7 == 0:
            number = _varint(view, begin)
            if number is None:
                return None
            stop = number[1]
        else:
            return None  # no contract here has fixed-width fields near large ones
        found.append((key >> 3, view[at:stop], content))
        at = stop
    return found


def _varint(view: memoryview, at: int) -> tuple[int, int] | None:
    """A number and where it ends; None where it does not end in time."""
    value = shift = 0
    while at < len(view) and shift <= _MOST_VARINT_BITS:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says: there is more
            return value, at
        shift += 7
    return None
