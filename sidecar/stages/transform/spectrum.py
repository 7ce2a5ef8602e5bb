"""Power spectra of overlapping frames in float64, cheaper than by a library's Fourier transform.

Frames of 400 samples, Whisper's, have a kernel of their own: 3000 of them take 1.4 ms. Of another length, a frame
of parts x length samples is taken apart into `parts` interleaved sequences. What a transform of one sequence
needs, window included, is a small matrix, and what joins the sequences again is another, so that a block of
frames goes through two rounds of matrix products. Those run at the processor's full speed, which a transform
of a few hundred numbers does not: with 400 samples as well they took 3.5 ms, where the window, scipy's rfft and
its squares take 5.5. Frames of lengths without such factors go through scipy.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.fft

from sidecar.stages import fourier
from sidecar.stages.kernels import sealed

_Array = npt.NDArray[np.float32]
_Exact = npt.NDArray[np.float64]

Samples = Callable[[int, int], _Array]
"""float32 samples from one place to another; fewer where they end between, and zeros follow them."""

BLOCK: Final = 250
"""Frames transformed at once. Of 96, 128, 192, 250 and 384 the fastest by a third: rows of a power of two bytes
share the same few lines of the cache."""
# Products grow with the sum of both factors, a transform hardly grows: above this the transform wins.
_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Framing:
    """Frames of `n_fft` samples every `hop`, under a Hann window of `window` samples in their middle.

    A `periodic` window would begin again right behind its end; any other ends on the 0 that it begins with.
    """

    n_fft: int
    hop: int
    window: int
    periodic: bool = True

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    def hann(self) -> _Exact:
        """float64 [n_fft]: 0.5 - 0.5 cos(2 pi i / period) over the window, zeros around it."""
        period = self.window if self.periodic else self.window - 1
        rise = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(self.window) / period)
        before = (self.n_fft - self.window) // 2
        return np.pad(rise, (before, self.n_fft - self.window - before))


def power_blocks(samples: Samples, count: int, how: Framing) -> Iterator[tuple[slice, _Array]]:
    """The first `count` frames in blocks: which frames, and |FFT|^2 as float32 [bins, BLOCK].

    Frame i begins at sample i * hop. A block is overwritten by the next that its thread asks for, and is as
    wide as all of them even where fewer frames are left: a frame's last bits hang on the width of the
    products, and would else hang on how much sound follows it.
    """
    for start, power in zip(range(0, count, BLOCK), _blocks(samples, how), strict=False):
        yield slice(start, min(start + BLOCK, count)), power


def _blocks(samples: Samples, how: Framing) -> Iterator[_Array]:
    if how.n_fft == fourier.LENGTH:
        return _by_kernel(samples, how)
    plan = _plan(how)
    return _by_transform(samples, how) if plan is None else _by_products(samples, how, plan)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """The matrices. A sequence has as many `firsts` as its transform has bins.

    `apart`, float64 [parts, 2 * firsts, length], makes of a sequence the real and the imaginary part of each
    of its bins in turn; `joined`, [firsts, 2 * parts, 2 * parts], makes of one bin's real parts and then its
    imaginary parts those of the frame's bins.
    """

    apart: _Exact
    joined: _Exact


@functools.lru_cache(maxsize=8)
def _plan(how: Framing) -> _Plan | None:
    n = how.n_fft
    cost, parts = min((n // parts + 2 * parts, parts) for parts in range(2, n + 1, 2) if n % parts == 0)
    if cost > _MOST:
        return None
    length = n // parts
    firsts, part, sample = np.arange(length // 2 + 1), np.arange(parts), np.arange(length)
    # Angles are reduced in integers, which keeps every factor right to its last bits.
    inner = np.exp(-2j * np.pi / n * (parts * firsts[:, np.newaxis] * sample % n))
    window = how.hann().reshape(length, parts).T[:, np.newaxis, :]
    apart = np.stack([inner.real * window, inner.imag * window], axis=2).reshape(parts, -1, length)
    bins = firsts[:, np.newaxis] + length * part
    outer = np.exp(-2j * np.pi / n * (bins[:, :, np.newaxis] * part % n))
    joined = np.block([[outer.real, -outer.imag], [outer.imag, outer.real]])
    return _Plan(apart, joined)


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """Memory to work in: what comes to lie in a piece has been read out of it by then.

    `columns` are the samples, one hop a column; `even` takes the frames and later what joins the sequences,
    `odd` what the sequences were taken apart to; `sides` the real and the imaginary part of each bin, squared
    in place, the first of which ends as the sum.
    """

    columns: _Array
    even: _Exact
    odd: _Exact
    sides: _Array


def _room(how: Framing) -> _Room:
    plan = _plan(how)
    products = 0 if plan is None else 2 * plan.apart.shape[0] * plan.joined.shape[0]
    return _Room(
        columns=np.empty((how.hop, BLOCK + -(-how.n_fft // how.hop) - 1), np.float32),
        even=np.empty((max(products, how.n_fft), BLOCK)),
        odd=np.empty((products, BLOCK)),
        sides=np.empty((2, how.bins, BLOCK), np.float32),
    )


def _power() -> _Array:
    return np.empty((fourier.LENGTH // 2 + 1, BLOCK), np.float32)


class _Rooms(threading.local):
    """A thread's own: fresh memory for every sound would cost a third more, in page faults."""

    def __init__(self) -> None:
        self.of = functools.lru_cache(maxsize=2)(_room)
        self.power = functools.cache(_power)


_rooms: Final = _Rooms()


def _by_kernel(samples: Samples, how: Framing) -> Iterator[_Array]:
    # The kernel leaves out a factor of 2.
    window, power = sealed(how.hann() / 2.0), _rooms.power()
    span = (BLOCK - 1) * how.hop + how.n_fft
    for start in itertools.count(0, BLOCK * how.hop):
        wave = samples(start, start + span)
        whole = np.ascontiguousarray(wave) if wave.size == span else np.pad(wave, (0, span - wave.size))
        fourier.power(sealed(whole), how.hop, window, BLOCK, power)
        yield power


def _by_products(samples: Samples, how: Framing, plan: _Plan) -> Iterator[_Array]:
    (parts, length), firsts = plan.apart.shape[::2], plan.joined.shape[0]
    room = _rooms.of(how)
    sequences = room.even[: how.n_fft].reshape(length, parts, BLOCK).transpose(1, 0, 2)
    apart = room.odd.reshape(2 * firsts, parts, BLOCK)
    joined = room.even[: 2 * firsts * parts].reshape(firsts, 2, parts, BLOCK)
    for start in itertools.count(0, BLOCK):
        _frames(samples, start, how, room)
        np.matmul(plan.apart, sequences, out=apart.transpose(1, 0, 2))
        np.matmul(plan.joined, apart.reshape(firsts, -1, BLOCK), out=joined.reshape(firsts, -1, BLOCK))
        for side, found in enumerate(joined.swapaxes(0, 1)):
            _in_order(found, length, room.sides[side])
        np.square(room.sides, out=room.sides)
        yield _summed(room.sides)


def _in_order(found: _Exact, length: int, bins: _Array) -> None:
    """Puts [firsts, parts, BLOCK], bin first + length * part each, in the order of the bins, up to the middle.

    Those above the middle mirror the bins below it that are not among `found`; as squares are all that is
    asked for, the sign of their imaginary part does not matter.
    """
    firsts, parts, _ = found.shape
    half = parts // 2
    rows = bins[: half * length].reshape(half, length, BLOCK)
    rows[:, :firsts] = found[:, :half].swapaxes(0, 1)
    mirrored = length - firsts
    rows[:, firsts:] = found[mirrored:0:-1, : half - 1 : -1].swapaxes(0, 1)
    bins[-1] = found[0, half]


def _by_transform(samples: Samples, how: Framing) -> Iterator[_Array]:
    window, room = how.hann()[:, np.newaxis], _rooms.of(how)
    for start in itertools.count(0, BLOCK):
        frames = _frames(samples, start, how, room)
        frames *= window
        spectra = scipy.fft.rfft(frames, axis=0)
        room.sides[0], room.sides[1] = spectra.real, spectra.imag
        np.square(room.sides, out=room.sides)
        yield _summed(room.sides)


def _summed(sides: _Array) -> _Array:
    real: _Array = sides[0]
    real += sides[1]
    return real


def _frames(samples: Samples, start: int, how: Framing, room: _Room) -> _Exact:
    """float64 [n_fft, BLOCK]: the frames from one on, each a column."""
    columns, hop = room.columns, how.hop
    wanted = columns.shape[1]
    wave = samples(start * hop, (start + wanted) * hop)
    whole = wave.size // hop
    columns[:, :whole] = wave[: whole * hop].reshape(whole, hop).T
    columns[:, whole:] = 0.0
    if whole < wanted:
        rest = wave[whole * hop :]
        columns[: rest.size, whole] = rest
    frames = room.even[: how.n_fft]
    for at in range(0, how.n_fft, hop):
        rows = frames[at : at + hop]
        rows[...] = columns[: len(rows), at // hop : at // hop + BLOCK]
    return frames
