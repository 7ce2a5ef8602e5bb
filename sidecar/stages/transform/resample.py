"""Sounds to one channel at the model's rate, as the references load them.

transformers loads sound as librosa does: the mean over the channels, then soxr at its "HQ" quality, then
the length that the rates ask for. FFmpeg's own resampler is the other choice a recipe has; decode does that
one, and then there is nothing left to do here.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import soxr

_Array = npt.NDArray[np.float32]

# numpy adds eight and more neighbours in another order than fewer; see `mono`.
_UNROLLED_FROM: Final = 8
MARGIN_S: Final = 1
"""How much more sound than is wanted the resampler must see so that what is wanted keeps its bits: its
filters reach some milliseconds. 0.1 s was enough from 8 to 192 kHz; a second is asked for."""


def to_wave(samples: _Array, rate: int, target: int, at_most: int | None = None) -> _Array:
    """float32 [channels, samples] at `rate` hertz -> float32 [samples] at `target` hertz.

    `at_most` is how many samples of the result are wanted from its start; sound far behind them is not
    looked at. The result may share memory with `samples`.
    """
    if at_most is not None:
        samples = samples[:, : -(-at_most * rate // target) + MARGIN_S * rate]
    return resample(mono(samples), rate, target)[:at_most]


def mono(samples: _Array) -> _Array:
    """float32 [channels, samples] -> [samples]: the mean over the channels, in the reference's bits.

    The reference averages along the fast axis of interleaved sound. Up to seven channels that is the same
    left-to-right sum as along the slow axis here; from eight on numpy sums in pairs, so that the layout is
    restored first.
    """
    channels = samples.shape[0]
    if channels == 1:
        wave: _Array = samples[0]
    elif channels < _UNROLLED_FROM:
        wave = samples.mean(axis=0)
    else:
        wave = np.ascontiguousarray(samples.T).mean(axis=1)
    return wave


def resample(wave: _Array, rate: int, target: int) -> _Array:
    """float32 [samples] at `rate` hertz to `target` hertz through soxr HQ; ceil(samples x target / rate) long.

    soxr may end a sample early or late; the reference pads with zeros or cuts to that length, and so does
    this. An empty wave stays empty.
    """
    if rate == target or not wave.size:
        return wave
    length = math.ceil(wave.size * target / rate)
    made: _Array = soxr.resample(wave, rate, target, quality="soxr_hq")
    return made[:length] if made.size >= length else np.pad(made, (0, length - made.size))
