"""Zero mean and unit variance."""

from __future__ import annotations

import numpy as np

from sidecar.stages.transform.wave import zero_mean_unit_variance


def test_the_mean_becomes_zero_and_the_variance_one() -> None:
    wave = (np.random.default_rng(1).standard_normal(10_000) * 0.2 + 0.4).astype(np.float32)
    values = zero_mean_unit_variance(wave)
    assert np.dtype(np.float32) == values.dtype
    assert abs(float(values.mean(dtype=np.float64))) < 1e-6
    assert abs(float(values.var(dtype=np.float64)) - 1) < 1e-4


def test_silence_stays_finite() -> None:
    assert np.array_equal(np.zeros(10, np.float32), zero_mean_unit_variance(np.full(10, 0.25, np.float32)))
