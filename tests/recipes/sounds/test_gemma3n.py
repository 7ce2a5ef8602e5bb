"""Gemma 3n's and Gemma 4's features beside transformers' own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import AudioInfo, Samples
from testbed.parity import Keys
from tests.recipes.sounds.judge import RATE, SOUNDS, expected, info_of, made, noise, recipe_of

BOUND = 1e-6


def gemma3n(**keys: object) -> Keys:
    return {"feature_extractor_type": "Gemma3nAudioFeatureExtractor", **keys}


def gemma4(**keys: object) -> Keys:
    return {"feature_extractor_type": "Gemma4AudioFeatureExtractor", **keys}


# As the checkpoints publish them.
PUBLISHED = {
    "gemma-3n-E4B-it": gemma3n(
        dither=0.0, feature_size=128, fft_length=1024, fft_overdrive=True, frame_length=512, hop_length=160,
        input_scale_factor=1.0, max_frequency=7600.0, mel_floor=1e-05, min_frequency=125.0, padding_side="right",
        padding_value=0.0, per_bin_mean=None, per_bin_stddev=None, preemphasis=0.97, preemphasis_htk_flavor=True,
        return_attention_mask=True, sampling_rate=16000,
    ),
    "gemma-4-E4B-it": gemma4(
        dither=0.0, feature_size=128, fft_length=512, fft_overdrive=False, frame_length=320, hop_length=160,
        input_scale_factor=1.0, max_frequency=8000.0, mel_floor=0.001, min_frequency=0.0, padding_side="right",
        padding_value=0.0, per_bin_mean=None, per_bin_stddev=None, preemphasis=0.0, preemphasis_htk_flavor=True,
        return_attention_mask=True, sampling_rate=16000,
    ),
}  # fmt: skip
OWN = {
    "per_bin_mean": [band / 10 for band in range(128)],
    "per_bin_stddev": [1 + band for band in range(128)],
}
CONFIGS = {
    **PUBLISHED,
    "3n, class defaults": gemma3n(),
    "3n, not as HTK does, bands of their own": gemma3n(preemphasis_htk_flavor=False, **OWN),
    "3n, filled with something": gemma3n(padding_value=0.25, feature_size=40, fft_overdrive=False),
    "4, emphasised, scaled": gemma4(preemphasis=0.9, input_scale_factor=0.7, fft_overdrive=True, **OWN),
    "4, odd frames": gemma4(
        frame_length_ms=20.1, hop_length_ms=7.3, preemphasis=0.5, preemphasis_htk_flavor=False
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_features_stay_within_a_millionth_and_masks_are_equal(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(CONFIGS[name], tmp_path)
    for title, wave in SOUNDS.items():
        found, reference = made(recipe, wave), expected(CONFIGS[name], wave)
        assert found.keys() == reference.keys()
        mask = reference["input_features_mask"]
        assert mask.dtype == found["input_features_mask"].dtype
        assert np.array_equal(mask, found["input_features_mask"]), title
        values = reference["input_features"].astype(np.float64)
        assert values.shape == found["input_features"].shape
        assert np.all(np.abs(values - found["input_features"]) <= BOUND * np.maximum(1, np.abs(values))), (
            title
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(514, 4_000), name=st.sampled_from(sorted(CONFIGS)))
def test_sounds_of_any_length_have_the_references_frames_and_mask(
    samples: int, name: str, tmp_path: Path
) -> None:
    found = made(recipe_of(CONFIGS[name], tmp_path), noise(samples))
    reference = expected(CONFIGS[name], noise(samples))
    assert reference["input_features"].shape == found["input_features"].shape
    assert np.array_equal(reference["input_features_mask"], found["input_features_mask"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(200, 600_000))
def test_gemma_4_takes_the_tokens_that_its_processor_counts(samples: int, tmp_path: Path) -> None:
    recipe = recipe_of(PUBLISHED["gemma-4-E4B-it"], tmp_path)
    processor: Any = SimpleNamespace(
        feature_extractor=SimpleNamespace(frame_length=320, hop_length=160), audio_seq_length=10**9
    )
    heard = np.empty(min(samples, 480_000))
    assert recipe.tokens(info_of(samples)) == Gemma4Processor._compute_audio_num_tokens(
        processor, heard, RATE
    )
    assert recipe.tokens(AudioInfo("mp3", 9, "mp3", RATE, 1, None)) is None


@pytest.mark.parametrize("samples", [700, 16_000, 41_234, 480_000])
def test_gemma_4_takes_the_tokens_that_its_processor_writes(samples: int, tmp_path: Path) -> None:
    recipe = recipe_of(PUBLISHED["gemma-4-E4B-it"], tmp_path)
    mask = made(recipe, noise(samples))["input_features_mask"]
    processor: Any = SimpleNamespace(boa_token="", eoa_token="", audio_token="*")
    written = Gemma4Processor.replace_audio_token(processor, {"input_features_mask": [mask]}, 0)
    assert len(written) == recipe.tokens(info_of(samples))


def test_gemma_3n_takes_as_many_tokens_for_every_sound(tmp_path: Path) -> None:
    keys = PUBLISHED["gemma-3n-E4B-it"]
    assert recipe_of(keys, tmp_path).tokens(info_of(RATE)) == 188
    assert recipe_of(keys, tmp_path, processor_config={"audio_seq_length": 7}).tokens(info_of(9)) == 7


@pytest.mark.parametrize(("keys", "samples"), [(gemma3n(), 500), (gemma4(), 128)])
def test_a_sound_shorter_than_a_frame_is_refused(keys: Keys, samples: int, tmp_path: Path) -> None:
    assert not expected(keys, noise(samples))["input_features"].size
    with pytest.raises(CorruptMedia, match="less than a frame"):
        recipe_of(keys, tmp_path).transform(Samples(noise(samples)[np.newaxis], RATE))


def test_it_says_what_it_does(tmp_path: Path) -> None:
    steps = recipe_of(gemma4(spare=1), tmp_path).steps
    assert "160 zeros before it" in steps
    assert "128 HTK mel bands, 0 to 8000 Hz, log(x + 0.001)" in steps
    assert steps[-1] == "ignored keys of the file: spare"
    steps = recipe_of(gemma3n(**OWN), tmp_path).steps
    assert "128 HTK mel bands, 125 to 7600 Hz, log (floor 1e-05)" in steps
    assert "less each band's own mean, by its own deviation" in steps


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"dither": 0.1}, "`dither` is 0.1"),
        ({"padding_side": "left"}, "padding_side"),
        ({"per_bin_mean": [1.0]}, "`per_bin_mean` is .*, and must be null, or 128 finite numbers"),
        ({"per_bin_stddev": ["a"] * 128}, "per_bin_stddev"),
        ({"frame_length_ms": 0.01}, "frame_length_ms"),
        ({"hop_length_ms": 0.01}, "hop_length_ms"),
        ({"min_frequency": 9000.0}, "min_frequency"),
        ({"mel_floor": 0}, "mel_floor"),
    ],
)
def test_values_that_cannot_be_followed_are_refused(keys: Keys, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(gemma4(**keys), tmp_path)
