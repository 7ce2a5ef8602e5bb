"""Sounds become one channel at the model's rate; what is not wanted is not computed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.stages.transform.resample import mono, resample, to_wave

RATES = [8_000, 11_025, 12_345, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]


def noise(samples: int, channels: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(samples).standard_normal((channels, samples), np.float32)


@settings(deadline=None)
@given(samples=st.integers(0, 5_000), rate=st.integers(4_000, 200_000))
def test_the_length_is_what_the_rates_ask_for(samples: int, rate: int) -> None:
    assert math.ceil(samples * 16_000 / rate) == resample(noise(samples)[0], rate, 16_000).size


@pytest.mark.parametrize("rate", RATES)
def test_the_samples_are_soxrs(rate: int) -> None:
    wave = noise(rate)[0]
    expected = soxr.resample(wave, rate, 16_000, quality="soxr_hq")
    found = resample(wave, rate, 16_000)
    common = min(expected.size, found.size)
    assert abs(expected.size - found.size) <= 1
    assert np.array_equal(expected[:common], found[:common])


@pytest.mark.parametrize("rate", RATES)
def test_the_start_of_a_long_sound_has_the_bits_of_the_whole(rate: int) -> None:
    """Whisper hears 30 s; here 1 s of 4, because the margin does not grow with the length."""
    sound = noise(4 * rate, 2)
    whole = resample(mono(sound), rate, 16_000)
    assert np.array_equal(whole[:16_000], to_wave(sound, rate, 16_000, at_most=16_000))


@pytest.mark.full
@pytest.mark.parametrize("rate", RATES)
def test_thirty_seconds_of_a_long_sound_have_the_bits_of_the_whole(rate: int) -> None:
    sound = noise(95 * rate)
    whole = resample(mono(sound), rate, 16_000)
    assert np.array_equal(whole[:480_000], to_wave(sound, rate, 16_000, at_most=480_000))


def test_a_sound_at_the_rate_is_passed_on() -> None:
    sound = noise(100)
    assert np.shares_memory(sound, to_wave(sound, 16_000, 16_000))


@pytest.mark.parametrize("channels", range(1, 13))
def test_channels_are_averaged_as_in_interleaved_sound(channels: int) -> None:
    sound = noise(1_000, channels)
    expected = np.ascontiguousarray(sound.T).mean(axis=1)
    assert np.array_equal(expected, mono(sound))


def test_an_empty_sound_stays_empty() -> None:
    assert to_wave(noise(0, 2), 44_100, 16_000).size == 0
