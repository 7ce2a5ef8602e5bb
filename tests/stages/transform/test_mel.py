"""The Slaney filter bank and the spectrum on it, beside transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank

from sidecar.stages.transform.mel import Mel, filter_bank, log_mel


@pytest.mark.parametrize(
    "how", [Mel(16_000, 400, 160, 80), Mel(16_000, 400, 160, 128), Mel(24_000, 512, 256, 64)]
)
def test_the_filter_bank_is_transformers(how: Mel) -> None:
    expected = mel_filter_bank(
        how.n_fft // 2 + 1, how.bands, 0.0, 8000.0, how.rate, norm="slaney", mel_scale="slaney"
    )
    assert np.abs(expected.T - filter_bank(how)).max() < 1e-8


def test_silence_is_the_floor_everywhere() -> None:
    spectrum = log_mel(np.zeros(0, np.float32), 16_000, Mel(16_000, 400, 160, 80))
    assert spectrum.shape == (80, 100)
    assert np.array_equal(np.full((80, 100), -1.5, np.float32), spectrum)


def test_frames_of_padding_are_the_same_whether_transformed_or_not() -> None:
    how, rng = Mel(16_000, 400, 160, 80), np.random.default_rng(7)
    wave = rng.standard_normal(5_000).astype(np.float32)
    padded = np.pad(wave, (0, 11_000))
    assert np.array_equal(log_mel(padded, 16_000, how), log_mel(wave, 16_000, how))


def test_a_tone_is_loudest_in_its_band() -> None:
    how = Mel(16_000, 400, 160, 80)
    wave = np.sin(np.arange(16_000) * 2 * np.pi * 1_000 / 16_000).astype(np.float32)
    spectrum = log_mel(wave, 16_000, how)
    centre = int(np.argmax(filter_bank(how)[:, 25]))  # 1000 Hz is bin 25 of 40 Hz each
    assert {centre} == set(spectrum[:, 2:-2].argmax(axis=0).tolist())
