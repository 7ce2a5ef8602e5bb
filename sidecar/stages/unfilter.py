"""PNG's rows, from what was inflated to RGB: the loops over bytes, compiled by numba for the processor at hand.

A row is stored as its differences from its neighbours, by one of five filters, and two kernels take it from
there: `unfilter` adds the neighbours up again, `spread` makes RGB of what is not RGB of 8 bits already. Sums
go from pixel to pixel and cannot be split, so the bytes of one pixel are the lanes of a vector: eight lanes
are enough for every kind of pixel, and what the ones beyond it hold is written over by the next pixel.

Nothing here checks bounds: callers hand in sizes that fit, as each kernel says. What the bytes are decides
over no place that is read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import numba
import numpy as np
from llvmlite import ir

from sidecar.stages.compiled import kernel
from sidecar.stages.kernels import CHANNELS, Arrays, Bytes, instruction, part, sealed

SLACK: Final = 8
"""Bytes that `unfilter` may read and write behind the last row."""

COLOURS: Final = 256
"""Entries of the table that `spread` looks bytes up in, whether or not a byte can be that large."""

# What `spread` is told that bytes are: a part of a byte that is looked up in a table, or the bytes of a pixel.
LOOKED_UP: Final = 0
GREY: Final = 1
GREY_ALPHA: Final = 2
RGBA: Final = 3
GREY_ALPHA_16: Final = 4
RGB_16: Final = 5
RGBA_16: Final = 6
CLIPPED_16: Final = 7

# PNG's numbers of its filters; 0 is none.
_SUB: Final = 1
_UP: Final = 2
_AVERAGE: Final = 3
_PAETH: Final = 4

# What numba and its builder of LLVM code hand about: neither carries types.
_Untyped: TypeAlias = Any

_LANES: Final = 8
_INDEX = ir.IntType(64)
_8_BYTES = ir.VectorType(ir.IntType(8), _LANES)
_8_SHORTS = ir.VectorType(ir.IntType(16), _LANES)


def _shorts(value: int) -> _Untyped:
    return ir.Constant(_8_SHORTS, [value] * _LANES)


def _sub(_build: _Untyped, left: _Untyped, _above: _Untyped, _corner: _Untyped) -> _Untyped:
    return left


def _average(build: _Untyped, left: _Untyped, above: _Untyped, _corner: _Untyped) -> _Untyped:
    return build.lshr(build.add(left, above), _shorts(1))


def _paeth(build: _Untyped, left: _Untyped, above: _Untyped, corner: _Untyped) -> _Untyped:
    """The neighbour that is nearest to left + above - corner; of equals, in that order."""
    down, across = build.sub(above, corner), build.sub(left, corner)
    far_left, far_above, far_corner = (
        build.select(build.icmp_signed("<", far, _shorts(0)), build.neg(far), far)
        for far in (down, across, build.add(down, across))
    )
    second = build.select(build.icmp_signed("<=", far_above, far_corner), above, corner)
    first = build.and_(
        build.icmp_signed("<=", far_left, far_above), build.icmp_signed("<=", far_left, far_corner)
    )
    return build.select(first, left, second)


def _added(predict: Callable[..., _Untyped]) -> _Untyped:
    """The instruction that undoes a filter which looks at the pixel before: the loop over a row.

    From source[at], for `length` bytes, to out[out_at]; the row above is the `length` bytes before that.
    """

    def define(  # noqa: PLR0917 - numba passes by place
        _typing: _Untyped,
        source: _Untyped,
        at: _Untyped,
        length: _Untyped,
        reach: _Untyped,
        out: _Untyped,
        out_at: _Untyped,
    ) -> _Untyped:
        def build_row(context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped) -> _Untyped:
            arrays = Arrays(context, build, signature.args, values)
            _, at, length, reach, _, out_at = values
            above_at = build.sub(out_at, length)
            before, loop, after = build.block, build.append_basic_block(), build.append_basic_block()
            build.branch(loop)
            build.position_at_end(loop)
            place, left, corner = build.phi(_INDEX), build.phi(_8_SHORTS), build.phi(_8_SHORTS)
            stored, above = (
                build.zext(build.load(arrays.at(n, build.add(start, place), _8_BYTES), align=1), _8_SHORTS)
                for n, start in ((0, at), (4, above_at))
            )
            # Kept in shorts and masked: narrowing and widening again would lie between pixel and pixel.
            total = build.and_(build.add(stored, predict(build, left, above, corner)), _shorts(0xFF))
            found = build.trunc(total, _8_BYTES)
            build.store(found, arrays.at(4, build.add(out_at, place), _8_BYTES), align=1)
            following = build.add(place, reach)
            for phi, first, later in (
                (place, ir.Constant(_INDEX, 0), following),
                (left, _shorts(0), total),
                (corner, _shorts(0), above),
            ):
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            build.cbranch(build.icmp_signed("<", following, length), loop, after)
            build.position_at_end(after)
            return context.get_dummy_value()

        return numba.types.void(source, at, length, reach, out, out_at), build_row

    return instruction(define)


_add_left, _add_average, _add_paeth = _added(_sub), _added(_average), _added(_paeth)


@kernel
def unfilter(source: Bytes, rows: int, length: int, reach: int, out: Bytes, at: int) -> bool:  # noqa: PLR0917 - numba passes by place
    """Undoes the filters of `rows` rows of `length` bytes, to out[at] and behind it; false where one is unknown.

    In `source` each row has its filter's number in front. `reach` is how many bytes lie between a pixel's
    bytes and those of the one before, 1 to 8, and divides `length`. The `length` bytes before out[at]
    are the row above. Both arrays go on for SLACK bytes behind the last row.
    """
    for row in range(rows):
        begin, to = (length + 1) * row, at + length * row
        number = source[begin]
        if number == _SUB:
            _add_left(source, begin + 1, length, reach, out, to)
        elif number == _AVERAGE:
            _add_average(source, begin + 1, length, reach, out, to)
        elif number == _PAETH:
            _add_paeth(source, begin + 1, length, reach, out, to)
        elif number <= _UP:
            # Slices, because numba would look for a negative index at each element of anything else.
            stored, line = source[begin + 1 : begin + 1 + length], out[to : to + length]
            above = out[to - length : to]
            if number == _UP:
                for place in range(length):
                    line[place] = stored[place] + above[place]
            else:
                for place in range(length):
                    line[place] = stored[place]
        else:
            return False
    return True


def _pixels_of(step: int, green: int, blue: int) -> Callable[[Bytes, int, Bytes], None]:
    """The loop over a row whose pixels take `step` bytes each, by where green and blue lie; red is in front."""

    @part
    def spread_row(line: Bytes, width: int, out: Bytes) -> None:
        for x in range(width):
            out[CHANNELS * x] = line[step * x]
            out[CHANNELS * x + 1] = line[step * x + green]
            out[CHANNELS * x + 2] = line[step * x + blue]

    return spread_row


_of_grey, _of_grey_alpha, _of_rgba = _pixels_of(1, 0, 0), _pixels_of(2, 0, 0), _pixels_of(4, 1, 2)
# Of 16 bits the upper 8, which lie in front.
_of_grey_alpha_16, _of_rgb_16, _of_rgba_16 = _pixels_of(4, 0, 0), _pixels_of(6, 2, 4), _pixels_of(8, 2, 4)


@part
def _of_clipped_16(line: Bytes, width: int, out: Bytes) -> None:
    for x in range(width):
        grey = line[2 * x + 1] if line[2 * x] == 0 else np.uint8(255)
        out[CHANNELS * x] = grey
        out[CHANNELS * x + 1] = grey
        out[CHANNELS * x + 2] = grey


@part
def _looked_up(line: Bytes, width: int, bits: int, table: Bytes, out: Bytes) -> None:
    """The pixel in the upper bits of a byte comes first."""
    mask = (1 << bits) - 1
    for x in range(width):
        place = bits * x
        entry = CHANNELS * ((np.int64(line[place >> 3]) >> (8 - bits - (place & 7))) & mask)
        out[CHANNELS * x] = table[entry]
        out[CHANNELS * x + 1] = table[entry + 1]
        out[CHANNELS * x + 2] = table[entry + 2]


@kernel
def spread(  # noqa: PLR0917 - numba passes by place
    lines: Bytes, rows: int, width: int, bits: int, kind: int, table: Bytes, out: Bytes
) -> None:
    """RGB of `rows` rows of `width` pixels of `bits` bits, of a kind as above, into `out`.

    A row of `lines` takes its bits rounded up to bytes, and one of `out` 3 bytes a pixel. LOOKED_UP is for
    1, 2, 4 and 8 bits, in a table of COLOURS times 3 bytes; each other kind has its own number of bits.
    CLIPPED_16 is grey of 16 bits where all above 255 is 255.
    """
    length = (bits * width + 7) // 8
    for row in range(rows):
        line = lines[length * row : length * (row + 1)]
        to = out[CHANNELS * width * row : CHANNELS * width * (row + 1)]
        if kind == LOOKED_UP:
            _looked_up(line, width, bits, table, to)
        elif kind == RGBA:
            _of_rgba(line, width, to)
        elif kind == GREY:
            _of_grey(line, width, to)
        elif kind == GREY_ALPHA:
            _of_grey_alpha(line, width, to)
        elif kind == RGB_16:
            _of_rgb_16(line, width, to)
        elif kind == RGBA_16:
            _of_rgba_16(line, width, to)
        elif kind == GREY_ALPHA_16:
            _of_grey_alpha_16(line, width, to)
        else:
            _of_clipped_16(line, width, to)


def warm() -> None:
    """Compiles or loads both kernels: once a process, before it forks or serves."""
    line, table = np.zeros(CHANNELS + 1 + SLACK, np.uint8), np.zeros(CHANNELS * COLOURS, np.uint8)
    with suppress(OSError):
        unfilter(line, 1, 1, 1, line.copy(), 1)
    with suppress(OSError):
        spread(line, 1, 1, 8, LOOKED_UP, sealed(table), line.copy())
