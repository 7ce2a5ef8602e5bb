"""PNGs to upright RGB straight into three bytes a pixel, where that gives the very bits that Pillow gives.

Pillow takes four bytes a pixel, of which three are then copied, and undoes filters a byte at a time. Here the
pixels are inflated in pieces of a fixed size, and compiled loops (unfilter.py) leave them where they stay:
beside the picture nothing is held that grows with it.

Only whole and sound pixels are decoded here, as one picture that is not interlaced, behind a header that
Pillow has read and found good. For all else (a wrong length or checksum, an unknown filter, rows too
few or too many, bytes behind the last row, chunks behind the pixels that could mean something) the answer is
None and Pillow is asked, whose errors are the ones that are reported. It never raises for what the bytes are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from sidecar.media import ImageInfo, Pixels
from sidecar.stages import unfilter
from sidecar.stages.decode.room import ROOM
from sidecar.stages.decode.turned import upright
from sidecar.stages.kernels import sealed
from sidecar.stages.reader import Encoded

_Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Header:
    """What Pillow found before the pixels.

    `pixels` is where the first IDAT's data begin, in bytes from the file's start; `layout` is Pillow's raw
    mode; `palette` is uint8 [256, 3], RGB by index, or None; `texts` is how many bytes of text may follow.
    """

    pixels: int
    layout: str
    palette: _Array | None
    texts: int


# Bits of a pixel, and what the kernel is told they are, by Pillow's raw modes. None: RGB as it is to stay.
_LAYOUTS: Final[dict[str, tuple[int, int | None]]] = {
    "1": (1, unfilter.LOOKED_UP),
    "L;2": (2, unfilter.LOOKED_UP),
    "L;4": (4, unfilter.LOOKED_UP),
    "L": (8, unfilter.GREY),
    "I;16B": (16, unfilter.CLIPPED_16),
    "P;1": (1, unfilter.LOOKED_UP),
    "P;2": (2, unfilter.LOOKED_UP),
    "P;4": (4, unfilter.LOOKED_UP),
    "P": (8, unfilter.LOOKED_UP),
    "LA": (16, unfilter.GREY_ALPHA),
    "LA;16B": (32, unfilter.GREY_ALPHA_16),
    "RGB": (24, None),
    "RGB;16B": (48, unfilter.RGB_16),
    "RGBA": (32, unfilter.RGBA),
    "RGBA;16B": (64, unfilter.RGBA_16),
}

# A class, which its stub takes for an instance.
_NOT_DEFLATE: Final = cast("type[Exception]", zlib_ng.error)

# Bytes that are inflated at once and stay in the processor's cache until they are pixels.
_AT_ONCE: Final = 1 << 17
# Compressed bytes that are handed over at once: those that are left over are copied each time.
_HANDED: Final = 1 << 15
# Bytes of the longest row that is decoded here: 43,690 RGB pixels, beyond any camera's or screen's.
_LONGEST: Final = 1 << 17

# Bytes of a chunk: its length and name, and with the checksum at its end.
_BEFORE: Final = 8
_AROUND: Final = 12

# ImageMagick's texts behind the pixels. Others may mean something: an orientation, a transparent colour.
_DATES: Final = b"date:"


def decode_png(data: Encoded, info: ImageInfo, header: Header) -> Pixels | None:
    """The picture, turned upright as a view of what was written; None where Pillow must be asked.

    `info` is what probe found in `data`, and what memory is taken by. The array can be written to.
    """
    bits, kind = _LAYOUTS.get(header.layout, (0, None))
    length = (bits * info.width + 7) // 8
    if not 0 < length <= _LONGEST:
        return None
    view = memoryview(data)
    last = _last(view, header)
    if last is None:
        return None
    row = 3 * info.width
    # A black row in front: filters look at the row above the first, too.
    room = ROOM.take(row * (1 + info.height) + unfilter.SLACK)
    room[:row] = 0
    whole = (
        _Rows(room, row, 3)
        if kind is None
        else _SpreadRows(room[row:], info.width, bits, kind, _table(bits, header.palette))
    )
    try:
        if not _filled(whole, length, info.height, _pieces(view, header, last)):
            return None
    except _NOT_DEFLATE:
        return None
    stored = room[row : row * (1 + info.height)].reshape(info.height, info.width, 3)
    return Pixels(upright(stored, info.orientation))


def goes_on(data: Encoded, info: ImageInfo) -> bool:
    """Whether the pixels unpack to more than a MiB above what the picture takes.

    Pillow would unpack and drop all of it: a second for each 400 KB of file. False where nothing can be unpacked.
    """
    view = memoryview(data)
    bits = _SAMPLES.get(int.from_bytes(view[25:26], "big"), 4) * int.from_bytes(view[24:25], "big")
    # Every row has a filter, and in passes there are at most twice as many, each filled up to a byte.
    left = (2 if info.progressive else 1) * (2 + (bits * info.width + 7) // 8) * info.height + _BEHIND
    inflater = zlib_ng.decompressobj()
    try:
        for piece in _all_pieces(view):
            rest: Encoded = piece
            full = True
            while rest or full:
                found = inflater.decompress(rest, _AT_ONCE)
                rest, full = inflater.unconsumed_tail, len(found) == _AT_ONCE
                left -= len(found)
                if left < 0:
                    return True
            if inflater.eof:
                return False
    except _NOT_DEFLATE:
        return False
    return False


# Channels by PNG's kind of colour.
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BEHIND: Final = 1 << 20


def _all_pieces(data: memoryview) -> Iterator[memoryview]:
    """What all IDATs hold, in pieces, wherever they stand."""
    at = 8
    while len(data) - at >= _BEFORE:
        length, kind = _chunk(data, at)
        begin, at = at + _BEFORE, at + _AROUND + length
        if kind == b"IDAT":
            for place in range(begin, min(begin + length, len(data)), _HANDED):
                yield data[place : min(place + _HANDED, begin + length)]


def _last(data: memoryview, header: Header) -> int | None:
    """Where the IDATs end; None where what follows them could mean something, or is not all there.

    Their checksums are not looked at, as Pillow does not: the stream has one of its own.
    """
    texts, at, last = 0, header.pixels - _BEFORE, header.pixels
    while len(data) - at >= _BEFORE:
        length, kind = _chunk(data, at)
        if kind == b"IEND":
            return last
        begin, at = at + _BEFORE, at + _AROUND + length
        if kind == b"IDAT" and not texts:
            last = at
        elif kind == b"tEXt" and bytes(data[begin : begin + len(_DATES)]) == _DATES:
            texts += length
        else:
            return None
        if texts > header.texts:
            return None
    return None


def _chunk(data: memoryview, at: int) -> tuple[int, bytes]:
    return int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])


def _pieces(data: memoryview, header: Header, last: int) -> Iterator[memoryview]:
    """The stream in pieces, none empty. The chunks are walked again: a list of many could be larger than they."""
    at = header.pixels - _BEFORE
    while at < last:
        length, _ = _chunk(data, at)
        begin, at = at + _BEFORE, at + _AROUND + length
        for place in range(begin, begin + length, _HANDED):
            yield data[place : min(place + _HANDED, begin + length)]


def _table(bits: int, palette: _Array | None) -> _Array:
    """Colours by value, uint8 [768]: the palette's, or else all greys that so many bits can be."""
    if palette is not None:
        return sealed(palette.reshape(-1))
    greys = np.zeros(unfilter.COLOURS, np.uint8)
    if bits < 8:  # noqa: PLR2004 - a byte's
        greys[: 1 << bits] = np.arange(1 << bits) * (255 // ((1 << bits) - 1))
    return sealed(greys.repeat(3))


class _Rows:
    """RGB of 8 bits: rows that need no more than their filters undone, each right behind the one above."""

    def __init__(self, out: _Array, length: int, reach: int) -> None:
        self._out, self._length, self._reach = out, length, reach
        self._at = length

    def write(self, source: _Array, rows: int) -> bool:
        """Takes so many filtered rows; false where a filter is unknown."""
        done = unfilter.unfilter(source, rows, self._length, self._reach, self._out, self._at)
        self._at += rows * self._length
        return done


class _SpreadRows:
    """Every other kind: the filters are undone aside, behind a copy of the last row before."""

    def __init__(self, out: _Array, width: int, bits: int, kind: int, table: _Array) -> None:
        self._out, self._width, self._bits, self._kind, self._table = out, width, bits, kind, table
        self._length = (bits * width + 7) // 8
        self._lines = np.zeros(self._length + _space(self._length) + unfilter.SLACK, np.uint8)

    def write(self, source: _Array, rows: int) -> bool:
        """Takes so many filtered rows; false where a filter is unknown."""
        length, lines = self._length, self._lines
        if not unfilter.unfilter(source, rows, length, max(1, self._bits // 8), lines, length):
            return False
        found = lines[length:]
        unfilter.spread(found, rows, self._width, self._bits, self._kind, self._table, self._out)
        self._out = self._out[rows * 3 * self._width :]
        lines[:length] = lines[rows * length : (1 + rows) * length]
        return True


def _space(length: int) -> int:
    """Bytes of filtered rows of `length` bytes that are taken at once: one row at least."""
    return max(_AT_ONCE, 1 + length)


def _filled(rows: _Rows | _SpreadRows, length: int, height: int, pieces: Iterable[memoryview]) -> bool:
    """Whether the stream is whole and sound, and gave just as many rows as there are.

    Raises _NOT_DEFLATE where it is damaged.
    """
    space, inflater = _space(length), zlib_ng.decompressobj()
    source = np.zeros(space + unfilter.SLACK, np.uint8)
    held = 0
    for piece in pieces:
        # What lies behind the end would be gathered, and copied with each piece that comes.
        if inflater.eof:
            return False
        rest: Encoded = piece
        full = True
        while rest or full:
            found = inflater.decompress(rest, space - held)
            rest, full = inflater.unconsumed_tail, len(found) == space - held
            source[held : held + len(found)] = np.frombuffer(found, np.uint8)
            held += len(found)
            count = held // (1 + length)
            if not count:
                continue
            height -= count
            # One row too many is found out before it is written anywhere.
            if height < 0 or not rows.write(source, count):
                return False
            taken = count * (1 + length)
            source[: held - taken] = source[taken:held]
            held -= taken
    return inflater.eof and not inflater.unused_data and not (height or held)
