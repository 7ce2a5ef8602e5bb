"""What holds for features whoever made them; beside transformers' they are held in tests/recipes/sounds."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.stages.transform.fbank import (
    Framed,
    Normalized,
    framed_mel,
    kaldi_frames,
    kaldi_mel,
    normalized_mel,
)

FRAMED = Framed(
    rate=16_000, frame=320, hop=160, n_fft=512, bands=64, low=0.0, high=8000.0, rounded=False, scale=1.0,
    emphasis=0.9, chained=True, floor=1e-3, added=True, mean=(), deviation=(),
)  # fmt: skip


def noise(samples: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (np.random.default_rng(samples).standard_normal(samples) * 0.1).astype(np.float32)


@pytest.mark.parametrize("bands", [1, 80])
def test_normalized_bands_have_mean_0_and_deviation_1_but_for_the_last_frame(bands: int) -> None:
    found = normalized_mel(noise(16_050), Normalized(16_000, 512, 400, 160, bands, 0.97))
    assert found.shape == (101, bands)
    assert not found[-1].any()
    assert np.abs(found[:-1].mean(axis=0)).max() < 1e-5
    assert np.abs(found[:-1].std(axis=0, ddof=1) - 1).max() < 1e-4


def test_a_wave_is_left_as_it_was() -> None:
    wave = noise(16_000)
    before = wave.copy()
    normalized_mel(wave, Normalized(16_000, 512, 400, 160, 80, 0.97))
    framed_mel(wave, FRAMED)
    kaldi_mel(wave, 16_000, 80)
    assert np.array_equal(before, wave)


def test_framed_features_hang_on_their_frames_alone() -> None:
    wave = noise(50_000)
    assert np.array_equal(framed_mel(wave, FRAMED)[:7], framed_mel(wave[: 6 * 160 + 321], FRAMED))
    assert framed_mel(wave[:320], FRAMED).shape == (0, 64)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2)])
def test_kaldis_frames_are_whole(samples: int, frames: int) -> None:
    assert kaldi_frames(samples) == frames


def test_kaldis_bands_have_mean_0_and_variance_1() -> None:
    found = kaldi_mel(noise(48_000), 16_000, 80)
    assert found.shape == (298, 80)
    assert np.abs(found.mean(axis=0)).max() < 1e-5
    assert np.abs(found.var(axis=0, ddof=1) - 1).max() < 1e-4
