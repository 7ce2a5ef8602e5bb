"""Power spectra of overlapping frames of 400 samples in float64, compiled by numba for the processor at hand.

Whisper's and its kin's, which the matrix products of `transform/spectrum.py` take more than twice as long for.
400 real samples are taken for 200 complex numbers, transformed in three rounds of 5, 5 and 8 of them at a
time, and what belongs to the even and to the odd samples is told apart at the end. Eight frames lie side by
side in the lanes of a vector, so that no sum crosses lanes and a frame has the same bits in every lane.
Each product and sum is rounded by itself, so that these bits do not depend on the processor either.

Nothing here checks bounds: callers hand in sizes that fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from sidecar.stages.compiled import kernel
from sidecar.stages.kernels import Arrays, instruction, part, sealed

Wave = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]

LENGTH: Final = 400
"""Samples of a frame."""
LANES: Final = 8
"""The fewest frames that can be asked for."""

_HALF: Final = LENGTH // 2
# How far apart the numbers lie that the first two rounds take together; the last takes neighbours.
_FIRST_STEP: Final = _HALF // 5
_SECOND_STEP: Final = _FIRST_STEP // 5
# The places in memory that a complex number takes: a vector of real parts and one of imaginary parts.
_PLACES: Final = 2 * LANES
# A line of the cache in bytes: vectors that straddle two cost twice.
_LINE: Final = 64

_SIN_FIFTH, _SIN_TWO_FIFTHS = math.sin(math.tau / 5), math.sin(2 * math.tau / 5)
_ROOT_FIVE_FOURTH: Final = math.sqrt(5) / 4
_ROOT_HALF: Final = math.sqrt(0.5)

# What numba and its builder of LLVM code hand about: neither carries types.
_Untyped: TypeAlias = Any


def _turns(angles: npt.NDArray[np.int64], circle: int) -> Exact:
    """exp(-2 pi i angle / circle), the real and the imaginary part in turn; right to the last bits."""
    turned: Exact = np.exp(-2j * np.pi / circle * (angles % circle)).reshape(-1).view(np.float64)
    return turned


# Of number n in each fifth of the first round, for its outputs 1 to 4; and of each bin up to the middle.
_INNER: Final = _turns(np.outer(np.arange(_FIRST_STEP), np.arange(1, 5)), _HALF)
_OUTER: Final = _turns(np.arange(_HALF // 2 + 1), LENGTH)

_INDEX, _DOUBLE = ir.IntType(64), ir.DoubleType()
_8_WORDS = ir.VectorType(ir.IntType(32), LANES)
_8_SINGLES, _8_DOUBLES = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_DOUBLE, LANES)


@dataclass(frozen=True, slots=True)
class _Lanes:
    """Eight numbers in a vector, with the operators that formulas are written with."""

    build: _Untyped
    value: _Untyped

    def __add__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.build, self.build.fadd(self.value, other.value))

    def __sub__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.build, self.build.fsub(self.value, other.value))

    def __mul__(self, other: _Lanes | float) -> _Lanes:
        factor = ir.Constant(_8_DOUBLES, [other] * LANES) if isinstance(other, float) else other.value
        return _Lanes(self.build, self.build.fmul(self.value, factor))


@dataclass(frozen=True, slots=True)
class _Complex:
    real: _Lanes
    imag: _Lanes

    def __add__(self, other: _Complex) -> _Complex:
        return _Complex(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: _Complex) -> _Complex:
        return _Complex(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other: _Complex | float) -> _Complex:
        if isinstance(other, float):
            return _Complex(self.real * other, self.imag * other)
        real = self.real * other.real - self.imag * other.imag
        return _Complex(real, self.real * other.imag + self.imag * other.real)

    def less_i_and_plus_i(self, other: _Complex) -> tuple[_Complex, _Complex]:
        """Its difference from i times the other, and their sum."""
        return (
            _Complex(self.real + other.imag, self.imag - other.real),
            _Complex(self.real - other.imag, self.imag + other.real),
        )

    def power(self) -> _Lanes:
        return self.real * self.real + self.imag * self.imag


def _of_five(x: Sequence[_Complex]) -> list[_Complex]:
    """The transform of five numbers."""
    outer, inner, fall, dip = x[1] + x[4], x[2] + x[3], x[1] - x[4], x[2] - x[3]
    both = outer + inner
    middle, apart = x[0] - both * 0.25, (outer - inner) * _ROOT_FIVE_FOURTH
    y1, y4 = (middle + apart).less_i_and_plus_i(fall * _SIN_FIFTH + dip * _SIN_TWO_FIFTHS)
    y2, y3 = (middle - apart).less_i_and_plus_i(fall * _SIN_TWO_FIFTHS - dip * _SIN_FIFTH)
    return [x[0] + both, y1, y2, y3, y4]


def _of_four(x: Sequence[_Complex]) -> list[_Complex]:
    even, odd = x[0] + x[2], x[1] + x[3]
    y1, y3 = (x[0] - x[2]).less_i_and_plus_i(x[1] - x[3])
    return [even + odd, y1, even - odd, y3]


def _of_eight(x: Sequence[_Complex]) -> list[_Complex]:
    even, odd = _of_four(x[::2]), _of_four(x[1::2])
    # An eighth of a turn, and three of them less half a turn.
    first = _Complex(odd[1].real + odd[1].imag, odd[1].imag - odd[1].real) * _ROOT_HALF
    third = _Complex(odd[3].real - odd[3].imag, odd[3].real + odd[3].imag) * _ROOT_HALF
    y2, y6 = even[2].less_i_and_plus_i(odd[2])
    lower = [even[0] + odd[0], even[1] + first, y2, even[3] - third]
    return [*lower, even[0] - odd[0], even[1] - first, y6, even[3] + third]


class _Memory:
    """The arrays that an instruction was called with, as numbers in lanes.

    Argument 0 is where the rounds work, in complex numbers that begin on a line of the cache; places are
    counted in the elements of an array.
    """

    def __init__(self, context: _Untyped, build: _Untyped, kinds: _Untyped, values: _Untyped) -> None:
        self._build = build
        self._arrays = Arrays(context, build, kinds, values)

    def loaded(self, place: _Untyped, further: int) -> _Complex:
        """The complex number that lies `further` numbers behind a place."""
        real, imag = (self._loaded(place, _PLACES * further + offset) for offset in (0, LANES))
        return _Complex(real, imag)

    def _loaded(self, place: _Untyped, further: int) -> _Lanes:
        start = self._arrays.at(0, place, _8_DOUBLES, further)
        return _Lanes(self._build, self._build.load(start, align=_LINE))

    def store(self, place: _Untyped, further: int, number: _Complex) -> None:
        for offset, lanes in ((0, number.real), (LANES, number.imag)):
            self.store_lanes(place, _PLACES * further + offset, lanes)

    def store_lanes(self, place: _Untyped, further: int, lanes: _Lanes) -> None:
        start = self._arrays.at(0, place, _8_DOUBLES, further)
        self._build.store(lanes.value, start, align=_LINE)

    def spread(self, argument: int, place: _Untyped, further: int) -> _Lanes:
        """One float64 in all lanes."""
        alone = self._build.load(self._arrays.at(argument, place, _DOUBLE, further), align=8)
        none = ir.Constant(_8_DOUBLES, ir.Undefined)
        first = self._build.insert_element(none, alone, ir.Constant(_INDEX, 0))
        lanes = self._build.shuffle_vector(first, none, ir.Constant(_8_WORDS, [0] * LANES))
        return _Lanes(self._build, lanes)

    def turn(self, argument: int, place: _Untyped, further: int) -> _Complex:
        real, imag = (self.spread(argument, place, 2 * further + n) for n in range(2))
        return _Complex(real, imag)

    def singles(self, argument: int, place: _Untyped) -> _Untyped:
        return self._build.load(self._arrays.at(argument, place, _8_SINGLES), align=4)

    def store_singles(self, argument: int, place: _Untyped, lanes: _Lanes) -> None:
        rounded = self._build.fptrunc(lanes.value, _8_SINGLES)
        self._build.store(rounded, self._arrays.at(argument, place, _8_SINGLES), align=4)


@instruction
def _begin(  # noqa: PLR0917 - numba passes by place
    _typing: _Untyped,
    work: _Untyped,
    at: _Untyped,
    wave: _Untyped,
    wave_at: _Untyped,
    hop: _Untyped,
    window: _Untyped,
    window_at: _Untyped,
) -> _Untyped:
    """Eight samples of eight frames under the window, to eight vectors from `at` on."""

    def build_begin(context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped) -> _Untyped:
        memory = _Memory(context, build, signature.args, values)
        starts = [build.mul(values[4], ir.Constant(_INDEX, row)) for row in range(LANES)]
        rows = [memory.singles(2, build.add(values[3], start)) for start in starts]
        # To interleave both halves of 64 numbers moves the uppermost bit of each one's place to the bottom:
        # three times that, and rows and columns have changed places.
        for _ in range(3):
            rows = [
                build.shuffle_vector(rows[n], rows[n + 4], ir.Constant(_8_WORDS, picked))
                for n in range(4)
                for picked in ([0, 8, 1, 9, 2, 10, 3, 11], [4, 12, 5, 13, 6, 14, 7, 15])
            ]
        for sample, row in enumerate(rows):
            lanes = _Lanes(build, build.fpext(row, _8_DOUBLES)) * memory.spread(5, values[6], sample)
            memory.store_lanes(values[1], LANES * sample, lanes)
        return context.get_dummy_value()

    return numba.types.void(work, at, wave, wave_at, hop, window, window_at), build_begin


def _fives(step: int) -> _Untyped:
    """The instruction of the first two rounds: five numbers `step` apart, and their turns from `turns_at` on."""

    def define(
        _typing: _Untyped, work: _Untyped, at: _Untyped, turns: _Untyped, turns_at: _Untyped
    ) -> _Untyped:
        def build_fives(
            context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped
        ) -> _Untyped:
            memory = _Memory(context, build, signature.args, values)
            found = _of_five([memory.loaded(values[1], step * n) for n in range(5)])
            memory.store(values[1], 0, found[0])
            for n in range(1, 5):
                memory.store(values[1], step * n, found[n] * memory.turn(2, values[3], n - 1))
            return context.get_dummy_value()

        return numba.types.void(work, at, turns, turns_at), build_fives

    return instruction(define)


_first_five, _second_five = _fives(_FIRST_STEP), _fives(_SECOND_STEP)


@instruction
def _eight(_typing: _Untyped, work: _Untyped, at: _Untyped) -> _Untyped:
    """The instruction of the last round."""

    def build_eight(context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped) -> _Untyped:
        memory = _Memory(context, build, signature.args, values)
        for n, found in enumerate(_of_eight([memory.loaded(values[1], n) for n in range(8)])):
            memory.store(values[1], n, found)
        return context.get_dummy_value()

    return numba.types.void(work, at), build_eight


@instruction
def _powers(  # noqa: PLR0917 - numba passes by place
    _typing: _Untyped,
    work: _Untyped,
    low: _Untyped,
    high: _Untyped,
    turns: _Untyped,
    turns_at: _Untyped,
    out: _Untyped,
    low_out: _Untyped,
    high_out: _Untyped,
) -> _Untyped:
    """Of numbers k and 200 - k the powers of bins k and 200 - k, four times as high as they should be."""

    def build_powers(context: _Untyped, build: _Untyped, signature: _Untyped, values: _Untyped) -> _Untyped:
        memory = _Memory(context, build, signature.args, values)
        x, y = memory.loaded(values[1], 0), memory.loaded(values[2], 0)
        even = _Complex(x.real + y.real, x.imag - y.imag)
        odd = _Complex(x.imag + y.imag, y.real - x.real) * memory.turn(3, values[4], 0)
        memory.store_singles(5, values[6], (even + odd).power())
        memory.store_singles(5, values[7], (even - odd).power())
        return context.get_dummy_value()

    return numba.types.void(work, low, high, turns, turns_at, out, low_out, high_out), build_powers


@part
def _place(number: int) -> int:
    """Where the rounds leave a number."""
    fives, eight = number % 25, number // 25
    return _PLACES * (_FIRST_STEP * (fives % 5) + _SECOND_STEP * (fives // 5) + eight)


@part
def _working_place() -> Exact:
    room = np.empty(LANES * LENGTH + LANES, np.float64)
    skipped = -(room.ctypes.data // 8) % LANES
    return room[skipped : skipped + LANES * LENGTH]


@kernel
def power(wave: Wave, hop: int, window: Exact, count: int, out: Wave) -> None:
    """|FFT|^2 of `count` frames, at least LANES, as float32 in the first columns of `out` [201, any width].

    Frame i begins at sample i * hop; all of them lie in the wave. The window comes at half its height.
    """
    work, width = _working_place(), out.shape[1]
    for begin in range(0, count, LANES):
        first = min(begin, count - LANES)
        for sample in range(0, LENGTH, LANES):
            _begin(work, LANES * sample, wave, hop * first + sample, hop, window, sample)
        for n in range(_FIRST_STEP):
            _first_five(work, _PLACES * n, _INNER, 8 * n)
        for fifth in range(5):
            for n in range(_SECOND_STEP):
                _second_five(work, _PLACES * (_FIRST_STEP * fifth + n), _INNER, 8 * 5 * n)
        for n in range(25):
            _eight(work, _PLACES * 8 * n)
        for n in range(_HALF // 2 + 1):
            low, high = _place(n), _place((_HALF - n) % _HALF)
            _powers(work, low, high, _OUTER, 2 * n, out, width * n + first, width * (_HALF - n) + first)


def warm() -> None:
    """Compiles or loads the kernel: once a process, before it forks or serves."""
    with suppress(OSError):
        out = np.empty((_HALF + 1, LANES), np.float32)
        power(sealed(np.zeros(LENGTH, np.float32)), 0, sealed(np.zeros(LENGTH)), LANES, out)
