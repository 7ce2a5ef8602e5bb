"""The loops over pixels that numpy has no fast form of, compiled by numba for the processor at hand.

Three of them: the separable resize of uint8 pictures in fixed point, the picking of nearest pixels, and the
lookup that turns bytes into values. `transform/resize.py` and `pack.py` say with which numbers and why; this
file, what builds on it (`fourier.py`, `unfilter.py`) and `compiled.py` are the only ones that know numba. Every
kernel lets go of the interpreter lock and runs on one thread.
Pixels are computed in integers alone, so that they do not depend on how a kernel was compiled.

The resize keeps its bytes in quads: four neighbours along the axis that is being reduced, in one 32-bit
word, the first in the lowest byte. Masking a quad leaves two pairs of 16-bit numbers, and a pair times a
pair of weights, summed, is one instruction on x86 (vpmaddwd) and few elsewhere. The 16 lanes of a vector lie
across the other axis, so that no sum crosses lanes.

Nothing here checks bounds: callers hand in sizes that fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic, register_jitable

from sidecar.stages.compiled import kernel

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Indexes = npt.NDArray[np.int64]

CHANNELS: Final = 3
_LANES: Final = 16
# What one step of the sums covers: a vector of lanes for each channel, or as many neighbouring columns.
_STEP: Final = CHANNELS * _LANES
# The resize writes up to this many bytes past the end of its output.
SLACK: Final = _STEP
# How many blocks of rows the window between the passes holds beyond those that one row of output needs:
# enough that it is seldom moved, few enough that it stays in the processor's cache.
_SPARE: Final = 8

# Weights are 22-bit fixed point, in a high part and 11 low bits, or one part of 16 bits.
_LOW_BITS: Final = 11
_LOW_MASK: Final = (1 << _LOW_BITS) - 1
_MOST_BITS: Final = 22
_SHORT_LIMIT: Final = 1 << 15

# The passes and their orders.
ACROSS: Final = 0
DOWN: Final = 1
ACROSS_DOWN: Final = 2
DOWN_ACROSS: Final = 3

# Filters by PIL's numbers, and how far each reaches to either side where nothing is reduced.
_BILINEAR: Final = 2
_BICUBIC: Final = 3
_BOX: Final = 4
_HAMMING: Final = 5
_SUPPORTS: Final = (0.0, 3.0, 1.0, 2.0, 0.5, 1.0)
# PIL has the two numbers of this window as C floats.
_HAMMING_BASE: Final = float(np.float32(0.54))
_HAMMING_SWING: Final = float(np.float32(0.46))

_F = TypeVar("_F", bound=Callable[..., Any])
_Element = TypeVar("_Element", bound=np.generic)
# What numba and its builder of LLVM code hand about: neither carries types.
_Untyped: TypeAlias = Any


class Axis(NamedTuple):
    """How one axis is resized: which quads each output sums, and with what weights.

    The source's samples from `first` on are read, `span` of them. Output i sums counts[i] quads from
    starts[i] on, counted from `first`, with the weights from stride * i on: for each quad and each of the
    `parts` (2, or 1 where weights have 16 bits) the pair for its samples 0 and 2, then that for 1 and 3.
    The sum is divided by 1 << shift. `reach` is the most quads of any output. An axis that is only
    cropped has no outputs.
    """

    first: int
    span: int
    starts: Indexes
    counts: Indexes
    weights: Words
    stride: int
    parts: int
    shift: int
    reach: int


def part(function: _F) -> _F:
    """Compiled into the kernels that call it."""
    return cast("_F", numba.njit(nogil=True, error_model="numpy")(function))


def _shared(function: _F) -> _F:
    """Compiled into the kernels that call it, and left as it is for Python, where compiling would cost 20 ms."""
    return register_jitable(function)


# Instructions that Python has no words for: each function builds the LLVM code of one.

_BYTE, _WORD, _INDEX = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_16_BYTES = ir.VectorType(_BYTE, _LANES)
_4_WORDS = ir.VectorType(_WORD, 4)
_16_WORDS = ir.VectorType(_WORD, _LANES)
_32_WORDS = ir.VectorType(_WORD, 2 * _LANES)
_32_SHORTS = ir.VectorType(ir.IntType(16), 2 * _LANES)

# In each quarter of 64 bytes: the bytes of four RGB pixels by channel, then the four that are not used.
_BY_CHANNEL: Final = tuple(
    16 * quarter + byte
    for quarter in range(4)
    for byte in (0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 12, 13, 14, 15)
)
# In each quarter of two vectors of 16 words: the words of both in turn, and the halves of both.
_LOW_WORDS, _HIGH_WORDS, _LOW_HALVES, _HIGH_HALVES = (
    tuple(4 * quarter + word for quarter in range(4) for word in words)
    for words in ((0, 16, 1, 17), (2, 18, 3, 19), (0, 1, 16, 17), (2, 3, 18, 19))
)


def instruction(define: Callable[..., _Untyped]) -> _Untyped:
    """What kernels call as a function, and `define` builds the code of: see numba's `intrinsic`."""
    return intrinsic(define)


def _constant(kind: _Untyped, value: int) -> _Untyped:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _shuffled(build: _Untyped, pair: Sequence[_Untyped], picked: Iterable[int]) -> _Untyped:
    """The picked elements of two vectors, counted through both."""
    chosen = list(picked)
    return build.shuffle_vector(*pair, ir.Constant(ir.VectorType(_WORD, len(chosen)), chosen))


def _spread(build: _Untyped, word: _Untyped) -> _Untyped:
    """16 lanes that all hold this word."""
    alone = build.insert_element(_constant(_16_WORDS, 0), word, _constant(_WORD, 0))
    return _shuffled(build, (alone, alone), [0] * _LANES)


def _pair_sums(build: _Untyped, samples: _Untyped, weights: _Untyped) -> _Untyped:
    """32 shorts times 32 shorts, neighbours added: the form that LLVM knows as vpmaddwd."""
    products = build.mul(build.sext(samples, _32_WORDS), build.sext(weights, _32_WORDS))
    even, odd = (_shuffled(build, (products, products), range(first, 2 * _LANES, 2)) for first in range(2))
    return build.add(even, odd)


class Arrays:
    """The places inside the arrays that an instruction was called with."""

    def __init__(self, context: _Untyped, build: _Untyped, kinds: _Untyped, values: _Untyped) -> None:
        self._build = build
        self._starts = [
            context.make_array(kind)(context, build, value).data
            if isinstance(kind, numba.types.Array)
            else None
            for kind, value in zip(kinds, values, strict=True)
        ]

    def at(self, argument: int, index: _Untyped, kind: _Untyped, further: int = 0) -> _Untyped:
        """Where the `kind` begins that starts with element `index + further` of that argument."""
        place = self._build.add(index, _constant(_INDEX, further))
        start = self._build.gep(self._starts[argument], [place])
        return self._build.bitcast(start, kind.as_pointer())


def _sums(parts: int, *, to_rows: bool) -> _Untyped:
    """The instruction of both passes: 3 x 16 sums over `count` quads each, divided, clipped to bytes.

    Quad i of sum n is words[at + step * i + n]. With `to_rows` the 48 bytes go to out[out_at], which is a
    part of a row. Otherwise each 16 of them are rows 0 to 15 of one column, and as four quads go to out_at
    plus 0, 1 or 2, each quad `out_step` words behind the one before.

    The words may wrap on the way, as the references' own do: both parts are joined before the division, so
    that the result is that of whole weights wherever the whole sum fits.
    """

    def define(  # noqa: PLR0917 - numba passes by place
        _typing: _Untyped,
        words: _Untyped,
        at: _Untyped,
        step: _Untyped,
        count: _Untyped,
        weights: _Untyped,
        weights_at: _Untyped,
        shift: _Untyped,
        out: _Untyped,
        out_at: _Untyped,
        out_step: _Untyped,
    ) -> _Untyped:
        def build_sums(context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped) -> _Untyped:
            arrays = Arrays(context, build, signature.args, values)
            totals = _totals(build, arrays, parts, values)
            for channel, total in enumerate(totals):
                clipped = _clipped(build, total, values[6])
                if to_rows:
                    build.store(clipped, arrays.at(7, values[8], _16_BYTES, _LANES * channel), align=1)
                    continue
                quads = build.bitcast(clipped, _4_WORDS)
                for line in range(4):
                    place = build.add(values[8], build.mul(values[9], _constant(_INDEX, line)))
                    word = build.extract_element(quads, _constant(_WORD, line))
                    build.store(word, arrays.at(7, place, _WORD, channel), align=4)
            return context.get_dummy_value()

        kinds = (words, at, step, count, weights, weights_at, shift, out, out_at, out_step)
        return numba.types.void(*kinds), build_sums

    return instruction(define)


def _totals(build: _Untyped, arrays: Arrays, parts: int, values: _Untyped) -> list[_Untyped]:
    """The loop over quads, and what it has summed up for each of the three vectors of words."""
    _, at, step, count, _, weights_at, *_ = values
    before, loop, after = build.block, build.append_basic_block(), build.append_basic_block()
    build.branch(loop)
    build.position_at_end(loop)
    quad = build.phi(_INDEX)
    quad.add_incoming(_constant(_INDEX, 0), before)
    sums = [[build.phi(_16_WORDS) for _ in range(parts)] for _ in range(CHANNELS)]
    weight = build.add(weights_at, build.mul(quad, _constant(_INDEX, 2 * parts)))
    pairs = [_spread(build, build.load(arrays.at(4, weight, _WORD, n), align=4)) for n in range(2 * parts)]
    word = build.add(at, build.mul(quad, step))
    ends = []
    for channel, running in enumerate(sums):
        samples = build.load(arrays.at(0, word, _32_SHORTS, _LANES * channel), align=4)
        halves = (
            build.and_(samples, _constant(_32_SHORTS, 0xFF)),
            build.lshr(samples, _constant(_32_SHORTS, 8)),
        )
        for share, start in enumerate(running):
            total = start
            for half, pair in zip(halves, pairs[2 * share : 2 * share + 2], strict=True):
                total = build.add(total, _pair_sums(build, half, build.bitcast(pair, _32_SHORTS)))
            start.add_incoming(_constant(_16_WORDS, 0), before)
            start.add_incoming(total, loop)
            ends.append(total)
    following = build.add(quad, _constant(_INDEX, 1))
    quad.add_incoming(following, loop)
    build.cbranch(build.icmp_signed("<", following, count), loop, after)
    build.position_at_end(after)
    if parts == 1:
        return ends
    low = _constant(_16_WORDS, _LOW_BITS)
    return [build.add(build.shl(ends[n], low), ends[n + 1]) for n in range(0, len(ends), 2)]


def _clipped(build: _Untyped, total: _Untyped, shift: _Untyped) -> _Untyped:
    """Divided by 1 << shift, a half up, and held to the range of a byte."""
    shift = build.trunc(shift, _WORD)
    half = build.shl(_constant(_WORD, 1), build.sub(shift, _constant(_WORD, 1)))
    total = build.ashr(build.add(total, _spread(build, half)), _spread(build, shift))
    for beyond, bound in (("<", 0), (">", 255)):
        limit = _constant(_16_WORDS, bound)
        total = build.select(build.icmp_signed(beyond, total, limit), limit, total)
    return build.trunc(total, _16_BYTES)


# For weights of 22 bits and of 16, in both forms that the sums are wanted in.
_wide_to_rows, _wide_to_quads = _sums(2, to_rows=True), _sums(2, to_rows=False)
_short_to_rows, _short_to_quads = _sums(1, to_rows=True), _sums(1, to_rows=False)


@instruction
def _four_pixels(
    _typing: _Untyped, source: _Untyped, rows: _Untyped, at: _Untyped, quads: _Untyped, quads_at: _Untyped
) -> _Untyped:
    """The instruction that makes quads of four RGB pixels of 16 rows: 16 of red, of green and of blue.

    Row r's pixels begin at source[rows[r] + at]; 16 bytes are read there, though the last 4 are not used.
    """

    def build_quads(context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped) -> _Untyped:
        arrays = Arrays(context, build, signature.args, values)
        # Vector n holds rows n, n + 4, n + 8 and n + 12, so that all that follows stays inside the quarters.
        vectors = []
        for first in range(4):
            lines = []
            for row in range(first, _LANES, 4):
                start = build.load(arrays.at(1, _constant(_INDEX, row), _INDEX), align=8)
                lines.append(build.load(arrays.at(0, build.add(start, values[2]), _16_BYTES), align=1))
            halves = [_shuffled(build, lines[n : n + 2], range(2 * _LANES)) for n in (0, 2)]
            joined = _shuffled(build, halves, range(4 * _LANES))
            vectors.append(build.bitcast(_shuffled(build, (joined, joined), _BY_CHANNEL), _16_WORDS))
        low, high = (
            [_shuffled(build, vectors[n : n + 2], words) for n in (0, 2)]
            for words in (_LOW_WORDS, _HIGH_WORDS)
        )
        colours = ((low, _LOW_HALVES), (low, _HIGH_HALVES), (high, _LOW_HALVES))
        for channel, (both, picked) in enumerate(colours):
            found = _shuffled(build, both, picked)
            build.store(found, arrays.at(3, values[4], _16_WORDS, _LANES * channel), align=4)
        return context.get_dummy_value()

    return numba.types.void(source, rows, at, quads, quads_at), build_quads


# The resize.


@part
def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x *= math.pi
    return math.sin(x) / x


@part
def _bicubic(x: float) -> float:  # with a = -0.5
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0  # noqa: PLR2004 - its formula


@part
def _filter(resample: int, x: float) -> float:
    """The filter's height at x, in PIL's formulas and their order of operations."""
    if resample == _BICUBIC:
        return _bicubic(abs(x))
    if resample == _BILINEAR:
        return max(0.0, 1.0 - abs(x))
    if resample == _BOX:
        return 1.0 if -0.5 < x <= 0.5 else 0.0  # noqa: PLR2004 - its formula
    if resample == _HAMMING:
        window = _HAMMING_BASE + _HAMMING_SWING * math.cos(abs(x) * math.pi)
        return _sinc(abs(x)) * window if abs(x) < 1.0 else 0.0
    return _sinc(x) * _sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0  # noqa: PLR2004 - its formula


@part
def _short_bits(largest: float) -> int:
    """How many bits a weight of 16 has room for behind the point."""
    bits = 0
    while bits < _MOST_BITS and int(0.5 + largest * (1 << (bits + 1))) < _SHORT_LIMIT:
        bits += 1
    return bits


@kernel
def resized_axis(  # noqa: PLR0917 - numba passes by place
    source: int, extent: float, target: int, start: int, stop: int, resample: int, short: bool, mirrored: bool
) -> Axis:
    """The Axis that makes outputs [start, stop) of `target` from `source` samples; see resize.py.

    The first `extent` of the samples are resized: all of them, or the last one in part. `mirrored`: samples
    and outputs are those of the axis that begins at the other end, in the opposite order, to the bit.
    """
    if mirrored:
        start, stop = target - stop, target - start
    scale = extent / target
    spread = max(scale, 1.0)
    support = _SUPPORTS[resample] * spread
    exact = np.zeros((target, 2 * math.ceil(support) + 1))
    firsts, lasts = np.empty(target, np.int64), np.empty(target, np.int64)
    # 16-bit weights all have as many bits as the largest of the whole axis leaves room for, cropped or not.
    begin, end = (0, target) if short else (start, stop)
    largest = 0.0
    for i in range(begin, end):
        center = (i + 0.5) * scale
        first, last = max(0, int(center - support + 0.5)), min(source, int(center + support + 0.5))
        total = 0.0
        for j in range(last - first):
            exact[i, j] = _filter(resample, (j + first - center + 0.5) * (1.0 / spread))
            total += exact[i, j]
        for j in range(last - first):
            if total != 0.0:
                exact[i, j] /= total
            largest = max(largest, exact[i, j])
        firsts[i], lasts[i] = first, last
    shift = _short_bits(largest) if short else _MOST_BITS
    firsts, lasts = firsts[start:stop], lasts[start:stop]
    if mirrored:
        firsts, lasts = source - lasts[::-1], source - firsts[::-1]
    origin, outputs = firsts[0], stop - start
    starts = (firsts - origin) // 4
    counts = np.maximum((lasts - origin + 3) // 4 - starts, 1)
    parts, reach = 1 if short else 2, counts.max()
    weights = np.zeros((outputs, reach, parts, 2, 2), np.int16)
    for i in range(outputs):
        row = stop - 1 - i if mirrored else start + i
        skipped, length = firsts[i] - origin - 4 * starts[i], lasts[i] - firsts[i]
        for j in range(length):
            share = exact[row, length - 1 - j if mirrored else j]
            weight = int((-0.5 if share < 0.0 else 0.5) + share * (1 << shift))
            quad, sample = (skipped + j) // 4, (skipped + j) % 4
            if short:
                weights[i, quad, 0, sample % 2, sample // 2] = weight
            else:
                weights[i, quad, 0, sample % 2, sample // 2] = weight >> _LOW_BITS
                weights[i, quad, 1, sample % 2, sample // 2] = weight & _LOW_MASK
    words = weights.reshape(-1).view(np.uint32)
    stride = 2 * parts * reach
    return Axis(origin, lasts[-1] - origin, starts, counts, words, stride, parts, shift, reach)


@part
def _words(count: int) -> Words:
    """Memory for words, not cleared, on a cache line: vectors that straddle two cost twice."""
    room = np.empty(count + _LANES, np.uint32)
    skipped = -(room.ctypes.data // 4) % _LANES
    return room[skipped : skipped + count]


@part
def _across(  # noqa: PLR0917 - numba passes by place
    source: Bytes, base: int, stride: int, rows: int, axis: Axis, tile: Words, out: Words, at: int, step: int
) -> None:
    """Resizes 16 rows, into quads of four rows each: those of column c at out[at + c], then `step` further.

    Row r begins at source[base + stride * r] and holds axis.span pixels. Where there are fewer `rows` than
    16, the last one stands in for those that are missing.
    """
    begins = np.empty(_LANES, np.int64)
    for row in range(_LANES):
        begins[row] = base + stride * min(row, rows - 1)
    groups = (axis.span + 3) // 4
    # 16 bytes are read for 12, so the last pixels of a row are taken one by one.
    whole = min(groups, max(0, (CHANNELS * axis.span - 16) // 12 + 1))
    for group in range(whole):
        _four_pixels(source, begins, 12 * group, tile, _STEP * group)
    for group in range(whole, groups):
        for channel in range(CHANNELS):
            for row in range(_LANES):
                quad = np.uint32(0)
                for sample in range(min(4, axis.span - 4 * group)):
                    byte = source[begins[row] + CHANNELS * (4 * group + sample) + channel]
                    quad |= np.uint32(byte) << np.uint32(8 * sample)
                tile[_STEP * group + _LANES * channel + row] = quad
    for x in range(axis.starts.size):
        first, weight, place = _STEP * axis.starts[x], axis.stride * x, at + CHANNELS * x
        if axis.parts == 1:
            _short_to_quads(
                tile, first, _STEP, axis.counts[x], axis.weights, weight, axis.shift, out, place, step
            )
        else:
            _wide_to_quads(
                tile, first, _STEP, axis.counts[x], axis.weights, weight, axis.shift, out, place, step
            )


@part
def _down(  # noqa: PLR0917 - numba passes by place
    quads: Words, base: int, step: int, axis: Axis, y: int, columns: int, out: Bytes, at: int
) -> None:
    """Output row y, of `columns` bytes from out[at] on, and up to SLACK more behind them.

    Quads lie in rows of `step`, and the axis counts them from quads[base] on.
    """
    first = base + axis.starts[y] * step
    for column in range(0, columns, _STEP):
        if axis.parts == 1:
            _short_to_rows(
                quads, first + column, step, axis.counts[y], axis.weights, axis.stride * y, axis.shift, out,
                at + column, 0,
            )  # fmt: skip
        else:
            _wide_to_rows(
                quads, first + column, step, axis.counts[y], axis.weights, axis.stride * y, axis.shift, out,
                at + column, 0,
            )  # fmt: skip


@part
def _stacked(source: Bytes, base: int, stride: int, rows: int, columns: int, out: Words) -> None:  # noqa: PLR0917 - numba passes by place
    """Quads of four rows of bytes; the last row stands in for those that are missing."""
    # Slices, because numba would look for a negative index at each element of anything else.
    one, two = source[base:], source[base + stride * min(1, rows - 1) :]
    three, four = source[base + stride * min(2, rows - 1) :], source[base + stride * min(3, rows - 1) :]
    for column in range(columns):
        out[column] = (
            np.uint32(one[column])
            | np.uint32(two[column]) << np.uint32(8)
            | np.uint32(three[column]) << np.uint32(16)
            | np.uint32(four[column]) << np.uint32(24)
        )


@part
def _unstacked(quads: Words, step: int, rows: int, columns: int, out: Bytes) -> None:
    """The first `rows` of the 16 rows of bytes that four rows of quads hold."""
    for row in range(rows):
        shift = np.uint32(8 * (row % 4))
        line, stacked = out[columns * row :], quads[row // 4 * step :]
        for column in range(columns):
            line[column] = np.uint8(stacked[column] >> shift)


@part
def _slid(window: Words, step: int, begin: int, end: int, wanted: int) -> tuple[int, int]:
    """Moves what is in the window from `wanted` on to its front; what is in it then."""
    kept = window[step * (wanted - begin) :]
    for place in range(max(0, step * (end - wanted))):
        window[place] = kept[place]
    return wanted, max(wanted, end)


@part
def _tile(span: int) -> Words:
    """Memory for the quads of 16 rows of `span` pixels."""
    return _words(_STEP * ((span + 3) // 4))


@_shared
def _rounded_up(count: int) -> int:
    return (count + _STEP - 1) // _STEP * _STEP


@_shared
def _blocks_kept(reach: int) -> int:
    return (reach + 3) // 4 + 1 + _SPARE


@_shared
def _quads_kept(reach: int) -> int:
    return reach + _SPARE


@kernel
def resize(  # noqa: PLR0917 - numba passes by place
    source: Bytes, stride: int, order: int, across: Axis, down: Axis, out: Bytes
) -> None:
    """Resizes RGB rows that begin `stride` bytes apart in `source`, in one of the four orders, into `out`.

    `out` takes the rows one behind the other and has SLACK bytes more, which may be written too.
    """
    base = stride * down.first + CHANNELS * across.first
    if order == ACROSS:
        _only_across(source, base, stride, across, down.span, out)
    elif order == ACROSS_DOWN:
        _across_down(source, base, stride, across, down, out)
    else:
        _down_first(source, base, stride, across, down, out, order == DOWN_ACROSS)


@part
def _only_across(  # noqa: PLR0917 - numba passes by place
    source: Bytes, base: int, stride: int, across: Axis, height: int, out: Bytes
) -> None:
    tile = _tile(across.span)
    columns = CHANNELS * across.starts.size
    step = _rounded_up(columns)
    block = _words(4 * step)
    for row in range(0, height, _LANES):
        rows = min(_LANES, height - row)
        _across(source, base + stride * row, stride, rows, across, tile, block, 0, step)
        _unstacked(block, step, rows, columns, out[columns * row :])


@part
def _across_down(  # noqa: PLR0917 - numba passes by place
    source: Bytes, base: int, stride: int, across: Axis, down: Axis, out: Bytes
) -> None:
    """Between the passes is a window of blocks of 16 rows that slides down the source."""
    tile = _tile(across.span)
    columns = CHANNELS * across.starts.size
    step = _rounded_up(columns)
    room = _blocks_kept(down.reach)
    window = _words(4 * step * room)
    begin, end = 0, 0  # the blocks that are in the window
    for y in range(down.starts.size):
        needed = (down.starts[y] + down.counts[y] + 3) // 4
        if needed > begin + room:
            begin, end = _slid(window, 4 * step, begin, end, down.starts[y] // 4)
        for ready in range(end, needed):
            rows, place = down.span - _LANES * ready, 4 * step * (ready - begin)
            first = base + stride * _LANES * ready
            _across(source, first, stride, rows, across, tile, window, place, step)
        end = max(end, needed)
        _down(window, -4 * step * begin, step, down, y, columns, out, columns * y)


@part
def _down_first(  # noqa: PLR0917 - numba passes by place
    source: Bytes, base: int, stride: int, across: Axis, down: Axis, out: Bytes, both: bool
) -> None:
    """Before the pass is a window of rows of quads that slides down the source; behind it, 16 rows of bytes."""
    width = CHANNELS * across.span
    wide = _rounded_up(width)
    room = _quads_kept(down.reach)
    window = _words(wide * room)
    tile = _tile(across.span if both else 0)
    columns = CHANNELS * across.starts.size
    step = _rounded_up(columns)
    block, lines = _words(4 * step), np.empty(_LANES * wide if both else 0, np.uint8)
    begin, end = 0, 0  # the rows of quads that are in the window
    for y in range(down.starts.size):
        needed = down.starts[y] + down.counts[y]
        if needed > begin + room:
            begin, end = _slid(window, wide, begin, end, down.starts[y])
        for ready in range(end, needed):
            first, rows = base + stride * 4 * ready, down.span - 4 * ready
            _stacked(source, first, stride, rows, width, window[wide * (ready - begin) :])
        end = max(end, needed)
        if not both:
            _down(window, -wide * begin, wide, down, y, width, out, width * y)
            continue
        line = y % _LANES
        _down(window, -wide * begin, wide, down, y, width, lines, wide * line)
        if line == _LANES - 1 or y == down.starts.size - 1:
            _across(lines, 0, wide, line + 1, across, tile, block, 0, step)
            _unstacked(block, step, line + 1, columns, out[columns * (y - line) :])


def kept_bytes(order: int, across: Axis, down: Axis) -> int:
    """How much `resize` keeps between its passes."""
    if order == ACROSS_DOWN:
        return 16 * _rounded_up(CHANNELS * across.starts.size) * _blocks_kept(down.reach)
    return 0 if order == ACROSS else 4 * _rounded_up(CHANNELS * across.span) * _quads_kept(down.reach)


def weights_bytes(source: int, target: int, resample: int) -> int:
    """How much `resized_axis` takes while it works."""
    return 8 * target * (2 * math.ceil(_SUPPORTS[resample] * max(source / target, 1.0)) + 1)


def cut_axis(start: int, stop: int) -> Axis:
    """The Axis of an axis that keeps its length and is only cropped to [start, stop)."""
    none = np.empty(0, np.int64)
    return Axis(start, stop - start, none, none, np.empty(0, np.uint32), 0, 1, 0, 0)


@kernel
def pick(source: Bytes, stride: int, rows: Indexes, columns: Indexes, out: Bytes) -> None:
    """RGB pixels by the indexes of their rows and columns; an index of -1 is a black pixel."""
    place = 0
    for row in rows:
        for column in columns:
            for channel in range(CHANNELS):
                inside = row >= 0 and column >= 0
                out[place] = source[stride * row + CHANNELS * column + channel] if inside else 0
                place += 1


@kernel
def look_up(  # noqa: PLR0917 - numba passes by place
    source: Bytes,
    table: npt.NDArray[np.generic],
    out: npt.NDArray[np.generic],
    lengths: Indexes,
    steps: Indexes,
    out_steps: Indexes,
) -> None:
    """Elements of any one type for bytes: out[at of i] = table[channel of i, source[at of i]].

    The index i runs over `lengths`, the channel first, and lies at the sum of i * steps in `source`, of
    i * out_steps in `out`, both counted in elements; there are at least two axes. A channel after the other:
    measured faster than all of them a pixel (0.12 ms against 0.16 at 448x448).
    """
    last = lengths.size - 1
    length, step, out_step = lengths[last], steps[last], out_steps[last]
    rows = 1
    for axis in range(1, last):
        rows *= lengths[axis]
    index = np.zeros(lengths.size, np.int64)
    for channel in range(lengths[0]):
        values = table[channel]
        at, to = channel * steps[0], channel * out_steps[0]
        for _ in range(rows):
            for place in range(length):
                out[to + out_step * place] = values[source[at + step * place]]
            for back in range(1, last):
                axis = last - back
                index[axis] += 1
                at += steps[axis]
                to += out_steps[axis]
                if index[axis] < lengths[axis]:
                    break
                at -= steps[axis] * lengths[axis]
                to -= out_steps[axis] * lengths[axis]
                index[axis] = 0


def sealed(array: npt.NDArray[_Element]) -> npt.NDArray[_Element]:
    """A view that cannot be written: kernels take their inputs so, since numba compiles each kind apart."""
    view = array.view()
    view.flags.writeable = False
    return view


def warm() -> None:
    """Compiles or loads every kernel: once a process, before it forks or serves.

    Without it the first picture pays. A kernel that cannot be kept on a full disk is kept in memory.
    """
    line = np.zeros(CHANNELS * 5 + SLACK, np.uint8)
    with suppress(OSError):
        resized_axis(2, 2.0, 1, 0, 1, _BOX, True, False)
    axis = resized_axis(2, 2.0, 1, 0, 1, _BOX, True, False)
    walk = (np.ones(2, np.int64),) * 3
    calls: tuple[tuple[Callable[..., object], tuple[object, ...]], ...] = (
        (resize, (sealed(line), 6, ACROSS_DOWN, axis, axis, line.copy())),
        (pick, (sealed(line), 3, np.zeros(1, np.int64), np.zeros(1, np.int64), line.copy())),
        *(
            (look_up, (sealed(line), sealed(np.zeros((1, 256), kind)), np.zeros(1, kind), *walk))
            for kind in (np.uint8, np.uint16, np.uint32)
        ),
    )
    for compiled, arguments in calls:
        with suppress(OSError):
            compiled(*arguments)
