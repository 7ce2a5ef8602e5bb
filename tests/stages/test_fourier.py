"""The kernel of power spectra: compiled once, the same bits in every lane and on every processor."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sidecar.stages import fourier
from sidecar.stages.kernels import sealed
from sidecar.stages.transform.mel import Mel, log_mel

HOP = 160
POWER: Any = fourier.power


def powers(wave: npt.NDArray[np.float32], count: int, width: int) -> npt.NDArray[np.float32]:
    out = np.full((fourier.LENGTH // 2 + 1, width), -1.0, np.float32)
    fourier.power(sealed(wave), HOP, sealed(np.hanning(fourier.LENGTH) / 2.0), count, out)
    return out


def noise(count: int) -> npt.NDArray[np.float32]:
    samples = (count - 1) * HOP + fourier.LENGTH
    return np.random.default_rng(5).standard_normal(samples).astype(np.float32)


def test_warm_compiles_all_that_sounds_will_ask_for() -> None:
    fourier.warm()
    before = POWER.signatures
    for samples in (1, 16_000, 40_001):
        wave = np.ones(2 * samples, np.float32)
        for given in (wave[:samples], wave[::2], sealed(wave[1:])):
            log_mel(given, 48_000, Mel(16_000, fourier.LENGTH, HOP, 80))
    assert before == POWER.signatures
    assert len(before) == 1


def test_the_kernel_lets_go_of_the_lock_and_keeps_to_one_thread_and_to_plain_arithmetic() -> None:
    options = POWER.targetoptions
    assert options["nogil"]
    assert not options.get("parallel")
    assert not options.get("fastmath")


@pytest.mark.parametrize("count", [8, 9, 15, 16, 17])
def test_power_is_numpys_and_nothing_is_written_past_the_frames(count: int) -> None:
    wave = noise(count)
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), fourier.LENGTH)[::HOP]
    expected = np.abs(np.fft.rfft(frames * np.hanning(fourier.LENGTH), axis=1)).T ** 2
    found = powers(wave, count, count + 3)
    assert np.all(np.abs(expected - found[:, :count]) <= 2e-7 * expected)
    assert np.all(found[:, count:] == -1.0)


def test_a_frame_has_the_same_bits_in_every_lane() -> None:
    wave = np.tile(noise(1)[:HOP], 20)
    found = powers(wave, 17, 17)
    assert np.array_equal(found, np.broadcast_to(found[:, :1], found.shape))


PRINTED = """
import hashlib
from tests.stages.test_fourier import noise, powers
print(hashlib.sha256(powers(noise(30), 30, 30).tobytes()).hexdigest())
"""


@pytest.mark.full
@pytest.mark.parametrize("processor", ["generic", "haswell"])
def test_its_bits_are_the_same_on_every_processor(processor: str, tmp_path: Path) -> None:
    """haswell has multiplications that add without rounding between, and vectors half as long."""
    chosen = {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": "+avx2,+fma" if processor == "haswell" else "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    printed = subprocess.run(
        [sys.executable, "-c", PRINTED],
        env={**os.environ, **chosen},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout
    assert printed.strip() == hashlib.sha256(powers(noise(30), 30, 30).tobytes()).hexdigest()
