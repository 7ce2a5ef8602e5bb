"""Mel filter banks beside transformers' own, and their pieces."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank

from sidecar.stages.transform.bands import GROUP, SCALES, edges, grouped, slaney_bank, triangles

BINS = np.linspace(0.0, 8000.0, 257)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 8000.0), (20.0, 8000.0), (125.0, 7600.0)])
def test_triangles_in_hertz_are_transformers(scale: str, low: float, high: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = mel_filter_bank(257, 128, low, high, 16_000, mel_scale=scale)
    found = triangles(SCALES[scale].hertz(edges(scale, low, high, 128)), BINS)
    assert np.abs(expected.T - found).max() < 1e-10


@pytest.mark.parametrize("scale", SCALES)
def test_triangles_in_mels_are_transformers(scale: str) -> None:
    expected = mel_filter_bank(257, 80, 20, 8000, 16_000, mel_scale=scale, triangularize_in_mel_space=True)
    assert np.abs(expected.T - triangles(edges(scale, 20, 8000, 80), SCALES[scale].mels(BINS))).max() < 1e-10


@pytest.mark.parametrize("bands", [1, 40, 128])
def test_slaneys_bank_is_transformers(bands: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = mel_filter_bank(257, bands, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    assert np.abs(expected.T - slaney_bank(0.0, 8000.0, bands, BINS)).max() < 1e-12


@pytest.mark.parametrize("scale", SCALES)
def test_scales_run_both_ways(scale: str) -> None:
    hertz = np.linspace(0.0, 20_000.0, 999)
    assert np.abs(hertz - SCALES[scale].hertz(SCALES[scale].mels(hertz))).max() < 1e-8


@pytest.mark.parametrize("bands", [1, GROUP, GROUP + 1, 128])
def test_pieces_of_a_bank_leave_out_nothing_but_zeros(bands: int) -> None:
    bank = slaney_bank(0.0, 8000.0, bands, BINS)
    whole = np.zeros_like(bank)
    for group in grouped(bank):
        whole[group.bands, group.bins] = group.weights
    assert np.array_equal(bank, whole)


def test_bands_that_see_no_bin_are_kept() -> None:
    (group,) = grouped(np.zeros((3, 5)))
    assert (group.bands, group.bins, group.weights.shape) == (slice(0, 3), slice(0, 1), (3, 1))
