"""Power spectra by the kernel and by matrix products beside numpy's transform."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from sidecar.stages.transform.spectrum import BLOCK, Framing, power_blocks

# By the kernel: 400. By products: even and odd lengths of sequences. By a transform: 398 and 2048. Hops longer
# than frames and of no common factor, windows shorter than frames.
WHISPER = Framing(400, 160, 400)
FRAMINGS = [
    WHISPER,
    Framing(400, 7, 301, periodic=False),
    Framing(400, 480, 400),
    Framing(512, 160, 400, periodic=False),
    Framing(512, 160, 512),
    Framing(480, 7, 480),
    Framing(24, 40, 20),
    Framing(2, 1, 2),
    Framing(6, 5, 6),
    Framing(398, 160, 398),
    Framing(2048, 512, 2048),
]

Wave = npt.NDArray[np.float32]


def spectra(wave: Wave, count: int, how: Framing) -> npt.NDArray[np.float32]:
    whole = np.empty((how.bins, count), np.float32)
    for block, power in power_blocks(lambda start, stop: wave[start:stop], count, how):
        assert power.shape == (how.bins, BLOCK)
        whole[:, block] = power[:, : block.stop - block.start]
    return whole


def by_numpy(wave: Wave, count: int, how: Framing) -> npt.NDArray[np.float64]:
    padded = np.pad(wave.astype(np.float64), (0, max(0, (count - 1) * how.hop + how.n_fft - wave.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, how.n_fft)[:: how.hop][:count]
    found: npt.NDArray[np.float64] = np.abs(np.fft.rfft(frames * how.hann(), axis=1)).T ** 2
    return found


@pytest.mark.parametrize("how", FRAMINGS, ids=str)
@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 2 * BLOCK - 3])
def test_power_is_that_of_float64(how: Framing, count: int) -> None:
    samples = (count - 1) * how.hop + how.n_fft // 2 + 1
    wave = np.random.default_rng(count).standard_normal(samples).astype(np.float32)
    expected, found = by_numpy(wave, count, how), spectra(wave, count, how)
    # float32's rounding, and float64's beside the loudest bin.
    assert np.all(np.abs(expected - found) <= 4e-7 * expected + 1e-20 * expected.max())


@pytest.mark.parametrize("how", [WHISPER, Framing(480, 160, 480)], ids=str)
def test_bins_far_below_a_loud_tone_are_right(how: Framing) -> None:
    wave = np.sin(np.arange(40_000) * 0.0981).astype(np.float32)
    expected, found = by_numpy(wave, 240, how), spectra(wave, 240, how)
    assert expected.min() < 1e-10 * expected.max()
    assert np.all(np.abs(expected - found) <= 4e-7 * expected + 1e-20 * expected.max())


@pytest.mark.parametrize("how", FRAMINGS, ids=str)
def test_a_frame_has_the_same_bits_whatever_follows_it(how: Framing) -> None:
    wave = np.random.default_rng(1).standard_normal(300 * how.hop + how.n_fft).astype(np.float32)
    part = wave[: 10 * how.hop + how.n_fft]
    assert np.array_equal(spectra(wave, 300, how)[:, :10], spectra(part, 10, how))


def test_no_frames_are_no_blocks() -> None:
    assert not list(power_blocks(lambda start, stop: np.zeros(stop - start, np.float32), 0, WHISPER))


@pytest.mark.parametrize("how", [WHISPER, Framing(480, 160, 480)], ids=str)
def test_threads_do_not_share_memory(how: Framing) -> None:
    waves = [np.random.default_rng(seed).standard_normal(200_000).astype(np.float32) for seed in range(4)]
    expected = [spectra(wave, 1_000, how) for wave in waves]
    same: list[bool] = []

    def work(seed: int) -> None:
        same.extend(np.array_equal(expected[seed], spectra(waves[seed], 1_000, how)) for _ in range(5))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 20


@pytest.mark.parametrize(("length", "periodic"), [(400, True), (400, False)])
def test_the_window_is_numpys(length: int, periodic: bool) -> None:
    window = Framing(512, 160, length, periodic).hann()
    expected = np.pad(np.hanning(length + 1)[:-1] if periodic else np.hanning(length), 56)
    assert np.abs(expected - window).max() < 1e-15
