"""Waves to log-mel spectra, as Whisper's feature extractor computes them.

Power spectra in float64, then bands in float32: within 1e-6 of transformers' numpy extractor (its torch one
is 3e-5 away). Spectra in float32 would be faster still, and err by 1.5e-4 on a loud pure tone, because
eight decades are kept below the peak.
It never resamples, and knows nothing of chunks: it takes the samples that the model is to see.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.stages.transform.bands import GROUP, Group, grouped, slaney_bank
from sidecar.stages.transform.spectrum import BLOCK, Framing, Samples, power_blocks

_Array = npt.NDArray[np.float32]

# Whisper's own numbers (its audio.py): the top of the filter bank, the floor under the logarithm, the
# dynamic range kept below the loudest value, and the shift and scale at the end.
_TOP_HZ: Final = 8000.0
_FLOOR: Final = 1e-10
_RANGE: Final = 8.0
_SHIFT: Final = 4.0


@dataclass(frozen=True, slots=True)
class Mel:
    """A log-mel spectrum's numbers: `rate` in hertz; `n_fft` and `hop` in samples; `bands` a count."""

    rate: int
    n_fft: int
    hop: int
    bands: int


def log_mel(wave: _Array, length: int, how: Mel) -> _Array:
    """float32 [samples] -> float32 [bands, length // hop], of the wave with zeros up to `length` samples.

    Frames are centred on multiples of the hop, with the ends mirrored, under a periodic Hann window; power
    spectrum; Slaney mel bands; log10 with a floor of 1e-10; nothing more than 8 below the loudest value;
    (x + 4) / 4. The frame past the end is dropped. Frames that see only zeros are not transformed: their
    power is 0.
    """
    frames = length // how.hop
    heard = _frames_with_sound(wave.size, length, how)
    mel = np.empty((how.bands, frames), np.float32)
    # The floor's own logarithm is set, because float32 makes it -10.000001.
    mel[:, heard:] = _scaled(math.log10(_FLOOR))
    some = np.empty((GROUP, BLOCK), np.float32)
    framing = Framing(how.n_fft, how.hop, how.n_fft)
    for block, power in power_blocks(_mirrored(wave, length, how.n_fft // 2), heard, framing):
        for group in _groups(how):
            sums = np.matmul(group.weights, power[group.bins], out=some[: len(group.weights)])
            values = sums[:, : block.stop - block.start]
            np.maximum(values, np.float32(_FLOOR), out=values)
            np.log10(values, out=values)
            values *= np.float32(1.0 / _SHIFT)
            np.add(values, np.float32(1.0), out=mel[group.bands, block])
    lowest = max(_scaled(math.log10(_FLOOR)), float(mel.max()) - _RANGE / _SHIFT)
    return np.maximum(mel, np.float32(lowest), out=mel)


def _scaled(decades: float) -> float:
    """(x + 4) / 4, which in float32 has the bits of x / 4 + 1."""
    return (decades + _SHIFT) / _SHIFT


def _frames_with_sound(samples: int, length: int, how: Mel) -> int:
    """How many leading frames can see a sample that is not a zero of the padding."""
    frames, half = length // how.hop, how.n_fft // 2
    if samples > length - half - 1:
        return frames  # the mirror at the end reaches back into the sound
    return min(frames, -(-(samples + half) // how.hop))


def _mirrored(wave: _Array, length: int, half: int) -> Samples:
    """The wave, zeros up to `length`, and `half` samples mirrored at either end (the edge not repeated)."""

    def samples(start: int, stop: int) -> _Array:
        first, last = start - half, stop - half
        if first >= 0 and last <= wave.size:
            return wave[first:last]
        places = np.abs(np.arange(first, min(last, length + half)))
        places = np.minimum(places, 2 * (length - 1) - places)
        found, heard = np.zeros(places.size, np.float32), places < wave.size
        found[heard] = wave[places[heard]]
        return found

    return samples


@functools.lru_cache(maxsize=8)
def _groups(how: Mel) -> tuple[Group, ...]:
    return grouped(filter_bank(how))


def filter_bank(how: Mel) -> _Array:
    """float32 [bands, n_fft // 2 + 1]: Slaney's bands from 0 to 8 kHz, over bins evenly from 0 to rate // 2."""
    bins = np.linspace(0.0, how.rate // 2, how.n_fft // 2 + 1)
    return slaney_bank(0.0, _TOP_HZ, how.bands, bins).astype(np.float32)
