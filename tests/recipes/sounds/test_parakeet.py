"""Parakeet's features beside transformers' own, which need torch, and beside the same computation in float64.

The extractor itself is the judge where torch is installed; everywhere else its answers are, some of each
sound's, which scripts/golden_sound.py wrote down.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from transformers.audio_utils import mel_filter_bank

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import DataType, Samples
from testbed.parity import Keys
from tests.recipes.sounds.judge import (
    MOVING,
    RATE,
    SOUNDS,
    STILL,
    Wave,
    expected,
    info_of,
    made,
    noise,
    recipe_of,
)

GOLDEN = Path(__file__).with_name("parakeet_features.json")
# Features have deviation 1. The reference's float32 alone is up to 7e-4 away from float64 on these sounds.
TORCH_BOUND = 1e-3
DOUBLE_BOUND = 5e-6
# Where a band stands still, the last bits of its logarithms (1e-6 at most) are divided by as little as 1e-5.
STILL_BOUND = 0.15


def parakeet(**keys: object) -> Keys:
    return {"feature_extractor_type": "ParakeetFeatureExtractor", **keys}


# As the checkpoints publish them.
PUBLISHED = {
    "parakeet-ctc-1.1b": parakeet(
        feature_size=80,
        hop_length=160,
        n_fft=512,
        padding_side="right",
        padding_value=0.0,
        preemphasis=0.97,
        processor_class="ParakeetProcessor",
        return_attention_mask=True,
        sampling_rate=16000,
        win_length=400,
    ),
    "parakeet-tdt-0.6b-v3": parakeet(
        feature_size=128, hop_length=160, n_fft=512, preemphasis=0.97, sampling_rate=16000, win_length=400
    ),
}
CONFIGS = {
    **PUBLISHED,
    "no emphasis": parakeet(preemphasis=None),
    "a transform that no two factors make": parakeet(
        n_fft=398, win_length=398, hop_length=101, feature_size=40
    ),
}


def sampled(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Some forty of them, from all over."""
    return values.ravel()[:: max(1, values.size // 41)]


def in_double(keys: Keys, wave: Wave) -> npt.NDArray[np.float64]:
    """The same definition with every number in float64, but for the samples that the reference emphasises."""
    n_fft, hop, length = keys.get("n_fft", 512), keys.get("hop_length", 160), keys.get("win_length", 400)
    emphasis = np.float32(keys.get("preemphasis", 0.97) or 0.0)
    emphasized = np.concatenate([wave[:1], wave[1:] - emphasis * wave[:-1]]).astype(np.float64)
    left = (n_fft - length) // 2
    window = np.pad(np.hanning(length), (left, n_fft - length - left))
    padded = np.pad(emphasized, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bank = mel_filter_bank(
            n_fft // 2 + 1, keys.get("feature_size", 80), 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney",
            dtype=np.dtype(np.float32),
        )  # fmt: skip
    heard = wave.size // hop
    logarithms = np.log(power[:heard] @ bank.astype(np.float64) + 2.0**-24)
    features = np.zeros((heard + 1, logarithms.shape[1]))
    features[:heard] = (logarithms - logarithms.mean(axis=0)) / (logarithms.std(axis=0, ddof=1) + 1e-5)
    return features


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_those_that_the_extractor_was_seen_to_give(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(CONFIGS[name], tmp_path)
    answers = json.loads(GOLDEN.read_text(encoding="utf-8"))["features"][name]
    assert answers.keys() == SOUNDS.keys()
    for title, answer in answers.items():
        found = made(recipe, SOUNDS[title])
        assert list(found["input_features"].shape) == answer["shape"], title
        assert found["attention_mask"].tolist() == [True] * answer["heard"] + [False], title
        if title in MOVING:
            error = np.abs(sampled(found["input_features"]) - np.array(answer["some"])).max()
            assert error <= TORCH_BOUND, title


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the extractor needs torch")
@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_near_the_extractors_and_nearer_to_float64(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(CONFIGS[name], tmp_path)
    for title, wave in SOUNDS.items():
        found, reference = made(recipe, wave), expected(CONFIGS[name], wave)
        assert found.keys() == reference.keys()
        assert reference["attention_mask"].dtype == found["attention_mask"].dtype
        assert np.array_equal(reference["attention_mask"], found["attention_mask"]), title
        exact = in_double(CONFIGS[name], wave)
        ours, theirs = (np.abs(exact - one["input_features"]).max() for one in (found, reference))
        assert ours <= theirs + DOUBLE_BOUND, title
        if title in MOVING:
            error = np.abs(reference["input_features"].astype(np.float64) - found["input_features"]).max()
            assert error <= TORCH_BOUND, title


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sound", SOUNDS)
def test_features_are_those_of_float64(name: str, sound: str, tmp_path: Path) -> None:
    found = made(recipe_of(CONFIGS[name], tmp_path), SOUNDS[sound])["input_features"]
    bound = DOUBLE_BOUND if sound in MOVING else STILL_BOUND
    assert np.abs(in_double(CONFIGS[name], SOUNDS[sound]) - found).max() <= bound


def test_silence_is_zero(tmp_path: Path) -> None:
    found = made(recipe_of(PUBLISHED["parakeet-ctc-1.1b"], tmp_path), STILL["silence"])
    assert np.abs(found["input_features"]).max() < 1e-7


def test_a_sound_of_less_than_two_hops_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(parakeet(), tmp_path)
    with pytest.raises(
        CorruptMedia, match=r"319 samples at 16000 Hz, and ParakeetFeatureExtractor needs 320"
    ):
        recipe.transform(Samples(noise(319)[np.newaxis], RATE))
    assert made(recipe, noise(320))["input_features"].shape == (3, 80)


def test_it_says_what_it_does(tmp_path: Path) -> None:
    recipe = recipe_of(parakeet(spare=1), tmp_path)
    assert (recipe.reference, recipe.exact, recipe.tokens(info_of(RATE))) == ("torch", False, None)
    assert "0.97 of each sample's predecessor taken off" in recipe.steps
    assert recipe.steps[-1] == "ignored keys of the file: spare"
    assert recipe.accepts("attention_mask", DataType.BOOL)
    assert not recipe.accepts("input_features", DataType.UINT8)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"n_fft": 511}, "`n_fft` is 511, and must be even"),
        ({"win_length": 600}, "`win_length` is 600, and must be at most n_fft, 512"),
        ({"hop_length": 0}, "hop_length"),
        ({"preemphasis": "much"}, "preemphasis"),
        ({"do_normalize": True}, "do_normalize"),
    ],
)
def test_values_that_cannot_be_followed_are_refused(keys: Keys, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(parakeet(**keys), tmp_path)
