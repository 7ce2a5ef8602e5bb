"""Waves as they are, set to zero mean and unit variance where the model wants that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# transformers' Wav2Vec2FeatureExtractor adds this under the root, so that silence stays finite.
_VARIANCE_FLOOR = 1e-7


def zero_mean_unit_variance(wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [samples] -> float32 [samples]: (x - mean) / sqrt(variance + 1e-7), all in float32.

    The same expression as the reference's, and so its bits: numpy's sums depend on how they are made.
    """
    normalized: npt.NDArray[np.float32] = (wave - wave.mean()) / np.sqrt(wave.var() + _VARIANCE_FLOOR)
    return normalized
