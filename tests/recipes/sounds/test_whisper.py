"""Whisper's extractor as the processors of other models call it: how much of a sound, which mask, how many tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import AudioInfo, DataType, Samples
from sidecar.recipes.recipe import Recipe
from testbed.parity import Keys, extractor
from tests.recipes.sounds.judge import RATE, Outputs, Wave, info_of, made, noise, recipe_of, speech, tone

MEL_BOUND = 1e-6  # to the numpy path
TORCH_BOUND = 1e-4  # to the torch path

# Qwen2-Audio's and the Omni models' files; Voxtral's differs in the mask alone.
KEYS: Keys = {
    "feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 30, "feature_size": 128,
    "hop_length": 160, "n_fft": 400, "n_samples": 480000, "nb_max_frames": 3000, "padding_side": "right",
    "padding_value": 0.0, "return_attention_mask": True, "sampling_rate": 16000, "dither": 0.0,
}  # fmt: skip
SOUNDS = {
    "a hop": noise(201),
    "a second": noise(RATE),
    "no whole number of hops": noise(5 * RATE + 77),
    "a window": noise(480_000),
    "two windows and a bit": np.concatenate([speech(900_000), noise(61_003)]),
    "loud at the end": np.concatenate([noise(500_000) * np.float32(1e-3), tone(RATE, 0.3)]),
    "silence": np.zeros(40_000, np.float32),
}


def shared_by(model_type: str, directory: Path, **files: Keys) -> Recipe:
    return recipe_of(KEYS, directory, config={"model_type": model_type}, **files)


def called(wave: Wave, **how: Any) -> Outputs:
    """The extractor as a processor calls it, on its numpy path."""
    reference = extractor(KEYS)
    reference._torch_extract_fbank_features = reference._np_extract_fbank_features
    found = reference([wave], sampling_rate=RATE, return_tensors="np", **how)
    return {name: np.asarray(values) for name, values in found.items()}


def near(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> bool:
    assert expected.shape == found.shape
    return bool(np.abs(expected.astype(np.float64) - found).max() <= MEL_BOUND)


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("model_type", ["qwen2_audio", "qwen2_5_omni"])
def test_qwen_takes_a_window_and_always_the_mask(model_type: str, sound: str, tmp_path: Path) -> None:
    expected = called(SOUNDS[sound], return_attention_mask=True, padding="max_length")
    keys = {**KEYS, "return_attention_mask": False}
    found = made(recipe_of(keys, tmp_path, config={"model_type": model_type}), SOUNDS[sound])
    assert near(expected["input_features"][0], found["input_features"])
    assert np.array_equal(expected["attention_mask"][0], found["attention_mask"])


@pytest.mark.parametrize("sound", SOUNDS)
def test_qwen_3_takes_the_whole_sound_as_it_is(sound: str, tmp_path: Path) -> None:
    recipe = shared_by("qwen3_omni_moe", tmp_path)
    expected = called(SOUNDS[sound], return_attention_mask=True, padding=True, truncation=False)
    found = made(recipe, SOUNDS[sound])
    assert near(expected["input_features"][0], found["input_features"])
    assert np.array_equal(expected["attention_mask"][0], found["attention_mask"])
    assert recipe.decode_target(info_of(10**7)).max_seconds is None


@pytest.mark.parametrize("sound", SOUNDS)
def test_voxtral_takes_chunks_of_one_spectrum(sound: str, tmp_path: Path) -> None:
    recipe = shared_by("voxtral", tmp_path)
    (spec,) = recipe.outputs
    assert (spec.shape, spec.rows) == ((-1, 128, 3000), True)
    whole = called(SOUNDS[sound], padding=True, truncation=False, pad_to_multiple_of=480_000)[
        "input_features"
    ]
    expected = whole.reshape(128, -1, 3000).transpose(1, 0, 2)
    assert near(expected, made(recipe, SOUNDS[sound])["input_features"])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the processor needs torch")
def test_voxtrals_own_processor_agrees(tmp_path: Path) -> None:
    from transformers.models.voxtral.processing_voxtral import VoxtralProcessor

    wave = SOUNDS["two windows and a bit"]
    processor: Any = SimpleNamespace(feature_extractor=extractor(KEYS))
    expected = VoxtralProcessor._retrieve_input_features(
        processor, [wave], 3000, sampling_rate=RATE, padding=True, truncation=False, pad_to_multiple_of=480_000,
        return_tensors="pt",
    )  # fmt: skip
    found = made(shared_by("voxtral", tmp_path), wave)["input_features"]
    assert np.abs(np.asarray(expected, np.float64) - found).max() <= TORCH_BOUND


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(1, 2_000_000), n_window=st.sampled_from([50, 100, 37]))
def test_tokens_are_those_that_the_processors_count(samples: int, n_window: int, tmp_path: Path) -> None:
    from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
    from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

    processor: Any = SimpleNamespace(
        feature_extractor=SimpleNamespace(hop_length=160, nb_max_frames=3000), n_window=n_window
    )
    counted = Qwen2_5OmniProcessor._get_num_audio_tokens(processor, samples)
    for model_type in ("qwen2_5_omni", "qwen2_audio"):
        assert shared_by(model_type, tmp_path).tokens(info_of(samples)) == counted
    recipe = shared_by("qwen3_omni_moe", tmp_path, processor_config={"n_window": n_window})
    assert recipe.tokens(info_of(samples)) == Qwen3OmniMoeProcessor._get_num_audio_tokens(processor, samples)


@pytest.mark.parametrize(
    ("rate", "stored"), [(44_100, 44_101), (48_000, 10_001), (8_000, 7_999), (22_050, 1_234)]
)
def test_tokens_are_those_of_the_mask_at_other_rates(rate: int, stored: int, tmp_path: Path) -> None:
    recipe = shared_by("qwen2_audio", tmp_path)
    _, mask = recipe.transform(Samples(noise(stored)[np.newaxis], rate))
    (marks,) = mask.parts
    assert isinstance(marks, np.ndarray)
    frames = int(marks.sum())
    assert recipe.tokens(info_of(stored, rate)) == (((frames - 1) // 2 + 1) - 2) // 2 + 1


def test_tokens_are_not_told_without_a_length_or_a_formula(tmp_path: Path) -> None:
    assert shared_by("qwen2_audio", tmp_path).tokens(AudioInfo("mp3", 9, "mp3", RATE, 1, None)) is None
    for model_type in ("voxtral", "whisper", "of its own"):
        assert shared_by(model_type, tmp_path).tokens(info_of(RATE)) is None


def test_a_sound_too_short_for_its_mirror_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptMedia, match="200 samples at 16000 Hz, and the model needs 201"):
        shared_by("qwen3_omni_moe", tmp_path).transform(Samples(noise(200)[np.newaxis], RATE))
    with pytest.raises(CorruptMedia, match="0 samples at 16000 Hz, and the model needs 1:"):
        shared_by("voxtral", tmp_path).transform(Samples(np.zeros((1, 0), np.float32), RATE))


def test_voxtral_has_no_mask_and_one_hop(tmp_path: Path) -> None:
    assert not shared_by("voxtral", tmp_path).accepts("attention_mask", DataType.INT32)
    with pytest.raises(RecipeError, match="`hop_length` is 200, and must be 160"):
        recipe_of({**KEYS, "hop_length": 200}, tmp_path, config={"model_type": "voxtral"})


def test_they_say_what_they_do(tmp_path: Path) -> None:
    steps = shared_by("voxtral", tmp_path).steps
    assert "filled with 0 to a multiple of 480000 samples (30 s)" in steps
    assert "cut into chunks of 3000 frames" in steps
    assert not any("cut" in step or "filled" in step for step in shared_by("qwen3_omni_moe", tmp_path).steps)
