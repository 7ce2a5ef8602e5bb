"""Waves to mel features as the speech encoders other than Whisper's want them: Parakeet's, Gemma's, Kaldi's.

All sum the bins of short spectra into bands and take the natural logarithm. They differ in everything around
that, and in the precision that their references keep, which decides how closely they can be met: see each.
None of them resamples or knows the longest sound that a model hears.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.stages.transform.bands import SCALES, Group, edges, grouped, slaney_bank, triangles
from sidecar.stages.transform.spectrum import Framing, Samples, power_blocks

_Array = npt.NDArray[np.float32]
_Exact = npt.NDArray[np.float64]

# Frames worked on at once: their spectra stay in the processor's second cache.
_BLOCK: Final = 100


# Parakeet's own numbers (NeMo's): what keeps the logarithm of silence finite, and the deviation of a still band.
_LOG_GUARD: Final = 2.0**-24
_STILL: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Normalized:
    """Parakeet's features: `rate` hertz; `n_fft`, `window` and `hop` in samples; `bands` a count.

    `emphasis` is the part of each sample's predecessor that is taken off it.
    """

    rate: int
    n_fft: int
    window: int
    hop: int
    bands: int
    emphasis: float


def normalized_mel(wave: _Array, how: Normalized) -> _Array:
    """float32 [samples] -> float32 [samples // hop + 1, bands], each band with mean 0 and deviation 1.

    Frames are centred on multiples of the hop, with zeros past either end, under a symmetric Hann window; power
    spectrum; Slaney's bands up to half the rate; log(x + 2^-24). The last frame is left out of the mean and is
    zeros. There must be two others.
    """
    count = wave.size // how.hop
    heard = np.empty((how.bands, count), np.float32)
    framing = Framing(how.n_fft, how.hop, how.window, periodic=False)
    for block, power in power_blocks(
        _centred(_emphasized(wave, how.emphasis), how.n_fft // 2), count, framing
    ):
        for group in _normalized_groups(how):
            sums = group.weights @ power[group.bins]
            sums += np.float32(_LOG_GUARD)
            np.log(sums[:, : block.stop - block.start], out=heard[group.bands, block])
    mean = heard.mean(axis=1, dtype=np.float64, keepdims=True)
    centred = heard - mean
    deviation = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / (count - 1))
    features = np.zeros((count + 1, how.bands), np.float32)
    features[:count] = (centred / (deviation + _STILL)).T
    return features


def _emphasized(wave: _Array, emphasis: float) -> _Array:
    if not emphasis:
        return wave
    emphasized = wave.copy()
    emphasized[1:] -= np.float32(emphasis) * wave[:-1]
    return emphasized


def _centred(wave: _Array, half: int) -> Samples:
    """The wave behind `half` zeros."""

    def samples(start: int, stop: int) -> _Array:
        before = max(0, half - start)
        part = wave[max(0, start - half) : max(0, stop - half)]
        return np.pad(part, (before, 0)) if before else part

    return samples


@functools.lru_cache(maxsize=8)
def _normalized_groups(how: Normalized) -> tuple[Group, ...]:
    bins = np.linspace(0.0, how.rate // 2, how.n_fft // 2 + 1)
    return grouped(slaney_bank(0.0, how.rate / 2, how.bands, bins).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Framed:
    """Gemma's features: `low` and `high` hertz are the ends of the bands; `frame` and `hop` in samples.

    `scale` multiplies the wave. `emphasis` is the part of each sample's predecessor that is taken off it, in a
    `chained` frame except for its first sample, which is scaled instead. `floor` is the least that a band
    is taken for, or with `added` what is added to all of them. `mean` and `deviation` are the bands' own,
    empty for none. With `rounded` the window and the bins' places are computed in float32.
    """

    rate: int
    frame: int
    hop: int
    n_fft: int
    bands: int
    low: float
    high: float
    rounded: bool
    scale: float
    emphasis: float
    chained: bool
    floor: float
    added: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def frames(self, samples: int) -> int:
        """How many frames so many samples hold, each with one more behind it."""
        return max(0, (samples - self.frame - 1) // self.hop + 1)


def framed_mel(wave: _Array, how: Framed) -> _Array:
    """float32 [samples] -> float32 [frames, bands]: log of the bands of each frame's magnitudes.

    Up to the magnitudes everything is in float32, by the very operations of the reference: a loud tone's
    rounding noise lies above the floor, so that no other way of computing gives its values.
    """
    wave = wave * np.float32(how.scale) if how.scale != 1.0 else wave
    features = np.empty((how.frames(wave.size), how.bands), np.float32)
    if not len(features):
        return features
    views = np.lib.stride_tricks.sliding_window_view(wave, how.frame + 1)[:: how.hop]
    window = _framed_window(how.frame, how.rounded)
    for block in _blocks(len(features)):
        spectra = np.fft.rfft(_emphasized_frames(views[block], how) * window, n=how.n_fft, axis=-1)
        magnitudes = np.abs(spectra).astype(np.float64)
        bands = np.empty((len(magnitudes), how.bands))
        for group in _framed_groups(how):
            bands[:, group.bands] = magnitudes[:, group.bins] @ group.weights.T
        found = np.log(bands + how.floor if how.added else np.maximum(bands, how.floor))
        if how.mean:
            found -= how.mean
        if how.deviation:
            found /= how.deviation
        features[block] = found
    return features


def _emphasized_frames(frames: _Array, how: Framed) -> _Array:
    """float32 [frames, frame + 1] -> [frames, frame]."""
    if not how.emphasis:
        return frames[:, :-1]
    if not how.chained:
        return frames[:, 1:] - np.float32(how.emphasis) * frames[:, :-1]
    first = frames[:, :1] * np.float32(1.0 - how.emphasis)
    return np.concatenate([first, frames[:, 1:-1] - np.float32(how.emphasis) * frames[:, :-2]], axis=1)


@functools.lru_cache(maxsize=8)
def _framed_window(length: int, rounded: bool) -> _Array:
    """The periodic Hann window in float32, `rounded` in every step of it or at the end."""
    if not rounded:
        return np.hanning(length + 1)[:-1].astype(np.float32)
    angles = np.float32(2.0 * np.pi) * np.arange(length, dtype=np.float32) / np.float32(length)
    window: _Array = np.float32(0.5) * (np.float32(1.0) - np.cos(angles))
    return window


@functools.lru_cache(maxsize=8)
def _framed_groups(how: Framed) -> tuple[Group, ...]:
    """HTK's bands, over bins in hertz that are `rounded` to float32 or evenly from 0 to rate // 2."""
    count = how.n_fft // 2 + 1
    if how.rounded:
        bins = (np.arange(count, dtype=np.float32) * np.float32(how.rate / how.n_fft)).astype(np.float64)
    else:
        bins = np.linspace(0.0, how.rate // 2, count)
    return grouped(triangles(SCALES["htk"].hertz(edges("htk", how.low, how.high, how.bands)), bins))


# Kaldi's own numbers: samples as 16-bit integers; frames of 25 ms every 10 at 16 kHz, in a transform of 512; its
# window's exponent; float32's epsilon as the floor; the lowest frequency.
KALDI_FRAME: Final = 400
KALDI_HOP: Final = 160
_KALDI_FFT: Final = 512
_KALDI_SCALE: Final = 2.0**15
_KALDI_EMPHASIS: Final = 0.97
_POVEY: Final = 0.85
_KALDI_FLOOR: Final = 1.192092955078125e-07
_KALDI_LOW_HZ: Final = 20.0
_VARIANCE_FLOOR: Final = 1e-7


def kaldi_frames(samples: int) -> int:
    return max(0, (samples - KALDI_FRAME) // KALDI_HOP + 1)


def kaldi_mel(wave: _Array, rate: int, bands: int) -> _Array:
    """float32 [samples] -> float32 [frames, bands], each band with mean 0 and variance 1; two frames at least.

    Each frame loses its mean, then 0.97 of each sample's predecessor, and goes under Povey's window; power
    spectrum; log of Kaldi's bands. A band that stands still has its last bits multiplied by 3162, so that
    everything is in float64, spectra are rounded to complex64 as the reference keeps them, and sums over
    frames run along the same axis of the same memory.
    """
    logarithms = np.empty((bands, kaldi_frames(wave.size)), np.float32)
    loud = (wave * np.float32(_KALDI_SCALE)).astype(np.float64)
    views = np.lib.stride_tricks.sliding_window_view(loud, KALDI_FRAME)[::KALDI_HOP]
    window = np.power(np.hanning(KALDI_FRAME), _POVEY)
    for block in _blocks(logarithms.shape[1]):
        frames = views[block] - views[block].mean(axis=1, keepdims=True)
        frames[:, 1:] -= _KALDI_EMPHASIS * frames[:, :-1]
        frames[:, 0] *= 1.0 - _KALDI_EMPHASIS
        frames *= window
        spectra = np.fft.rfft(frames, n=_KALDI_FFT, axis=1).astype(np.complex64)
        power = np.square(spectra.real, dtype=np.float64) + np.square(spectra.imag, dtype=np.float64)
        for group in _kaldi_groups(rate, bands):
            sums = group.weights @ power[:, group.bins].T
            logarithms[group.bands, block] = np.log(np.maximum(_KALDI_FLOOR, sums))
    features = logarithms.T
    variance = features.var(axis=0, ddof=1, keepdims=True)
    normalized: _Array = (features - features.mean(axis=0, keepdims=True)) / np.sqrt(
        variance + _VARIANCE_FLOOR
    )
    return normalized


@functools.lru_cache(maxsize=8)
def _kaldi_groups(rate: int, bands: int) -> tuple[Group, ...]:
    """Triangles in mels, unlike the others', which are in hertz."""
    bins = SCALES["kaldi"].mels(rate / _KALDI_FFT * np.arange(_KALDI_FFT // 2 + 1, dtype=np.float64))
    return grouped(triangles(edges("kaldi", _KALDI_LOW_HZ, rate // 2, bands), bins))


def _blocks(frames: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, frames)) for start in range(0, frames, _BLOCK))
