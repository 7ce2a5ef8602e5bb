"""Mel filter banks: which bins of a spectrum each band sums, and with what weights.

Bands are triangles between neighbours that are equally far apart in mels. The three mel scales are Slaney's
(Auditory Toolbox, 1998: linear at 200/3 Hz a mel up to 1 kHz, then 27 steps for each factor of 6.4), HTK's and
Kaldi's, which is HTK's with natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

_Exact = npt.NDArray[np.float64]

GROUP: Final = 32
"""Bands summed in one product, over the bins that any of them sees: a band sees few, low ones the fewest. 250
frames of 128 bands: 1.3 ms all at once, 0.36 so, and 0.30 at best."""

_LINEAR_HZ_PER_MEL: Final = 200.0 / 3.0
_BREAK_HZ: Final = 1000.0
_BREAK_MEL: Final = 15.0
_LOG_STEP: Final = math.log(6.4) / 27.0

_CORNER_HZ: Final = 700.0
_HTK_STEP: Final = 2595.0
_KALDI_STEP: Final = 1127.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Hertz to mels, and back."""

    mels: Callable[[_Exact], _Exact]
    hertz: Callable[[_Exact], _Exact]


def _slaney_mels(hertz: _Exact) -> _Exact:
    high = _BREAK_MEL + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hertz < _BREAK_HZ, hertz / _LINEAR_HZ_PER_MEL, high)


def _slaney_hertz(mels: _Exact) -> _Exact:
    high = _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL))
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_HZ_PER_MEL, high)


SCALES: Final[Mapping[str, Scale]] = MappingProxyType({
    "slaney": Scale(_slaney_mels, _slaney_hertz),
    "htk": Scale(
        lambda hertz: _HTK_STEP * np.log10(1.0 + hertz / _CORNER_HZ),
        lambda mels: _CORNER_HZ * (np.power(10.0, mels / _HTK_STEP) - 1.0),
    ),
    "kaldi": Scale(
        lambda hertz: _KALDI_STEP * np.log(1.0 + hertz / _CORNER_HZ),
        lambda mels: _CORNER_HZ * (np.exp(mels / _KALDI_STEP) - 1.0),
    ),
})  # fmt: skip


def edges(scale: str, low: float, high: float, bands: int) -> _Exact:
    """float64 [bands + 2] in mels: band i rises from edge i, peaks at i + 1 and ends at i + 2. Hertz come in."""
    first, last = SCALES[scale].mels(np.array([low, high]))
    return np.linspace(first, last, bands + 2)


def triangles(corners: _Exact, bins: _Exact) -> _Exact:
    """float64 [bands, bins]: the weights of the bins at these places, in the unit of the corners."""
    low, centre, high = corners[:-2, np.newaxis], corners[1:-1, np.newaxis], corners[2:, np.newaxis]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def slaney_bank(low: float, high: float, bands: int, bins: _Exact) -> _Exact:
    """float64 [bands, bins]: on Slaney's scale, each band divided by half its width in hertz.

    So all pass the same energy. `bins` are hertz.
    """
    corners = SCALES["slaney"].hertz(edges("slaney", low, high, bands))
    return triangles(corners, bins) * (2.0 / (corners[2:] - corners[:-2]))[:, np.newaxis]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Some of a bank: which bands, which bins they see, and their weights [bands, bins]."""

    bands: slice
    bins: slice
    weights: npt.NDArray[np.floating]


def grouped(bank: npt.NDArray[np.floating]) -> tuple[Group, ...]:
    """A bank [bands, bins] without its empty parts, GROUP bands at a time."""
    groups = []
    for start in range(0, len(bank), GROUP):
        bands = slice(start, min(start + GROUP, len(bank)))
        seen = np.flatnonzero(bank[bands].any(axis=0))
        bins = slice(int(seen[0]), int(seen[-1]) + 1) if seen.size else slice(0, 1)
        groups.append(Group(bands, bins, np.ascontiguousarray(bank[bands, bins])))
    return tuple(groups)
