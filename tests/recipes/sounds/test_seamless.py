"""SeamlessM4T's filter bank features beside transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import Samples
from testbed.parity import Keys
from tests.recipes.sounds.judge import MOVING, RATE, SOUNDS, expected, info_of, made, noise, recipe_of

# The last bit of a logarithm, and what becomes of it where a band's variance is nothing beside 1e-7.
MOVING_BOUND = 1e-5
STILL_BOUND = 3e-3
DIFFERENT_AT_MOST = 1e-5


def seamless(**keys: object) -> Keys:
    return {"feature_extractor_type": "SeamlessM4TFeatureExtractor", **keys}


# As the checkpoints publish them.
PUBLISHED = {
    "seamless-m4t-v2-large": seamless(
        feature_size=80, num_mel_bins=80, padding_side="right", padding_value=0.0, return_attention_mask=True,
        sampling_rate=16000, stride=2,
    ),
    "w2v-bert-2.0": seamless(
        feature_size=80, num_mel_bins=80, padding_side="right", padding_value=1, return_attention_mask=True,
        sampling_rate=16000, stride=2,
    ),
}  # fmt: skip
CONFIGS = {**PUBLISHED, "three side by side": seamless(stride=3, num_mel_bins=41, padding_value=-2.5)}


@pytest.mark.parametrize("name", CONFIGS)
def test_features_and_masks_are_the_references(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(CONFIGS[name], tmp_path)
    different = elements = 0
    for title, wave in SOUNDS.items():
        if wave.size < 400 + 160 * (CONFIGS[name].get("stride", 2) - 1):
            continue
        found, reference = made(recipe, wave), expected(CONFIGS[name], wave)
        assert found.keys() == reference.keys()
        assert reference["attention_mask"].dtype == found["attention_mask"].dtype
        assert np.array_equal(reference["attention_mask"], found["attention_mask"]), title
        values, ours = reference["input_features"], found["input_features"]
        assert values.shape == ours.shape
        bound = MOVING_BOUND if title in MOVING else STILL_BOUND
        assert np.abs(values.astype(np.float64) - ours).max() <= bound, title
        different, elements = different + int(np.count_nonzero(values != ours)), elements + values.size
    assert different <= DIFFERENT_AT_MOST * elements


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(560, 4_000), stride=st.integers(2, 5))
def test_sounds_of_any_length_have_the_references_rows_and_mask(
    samples: int, stride: int, tmp_path: Path
) -> None:
    keys, wave = seamless(stride=stride), noise(samples)
    recipe = recipe_of(keys, tmp_path)
    frames = (samples - 400) // 160 + 1
    if frames + frames % 2 < stride:
        with pytest.raises(CorruptMedia, match="send a longer one"):
            recipe.transform(Samples(wave[np.newaxis], RATE))
        return
    found, reference = made(recipe, wave), expected(keys, wave)
    assert np.allclose(reference["input_features"], found["input_features"], rtol=0, atol=MOVING_BOUND)
    assert np.array_equal(reference["attention_mask"], found["attention_mask"])


def test_a_sound_without_a_variance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CorruptMedia, match=r"559 samples at 16000 Hz, and SeamlessM4TFeatureExtractor needs 560"
    ):
        recipe_of(seamless(), tmp_path).transform(Samples(noise(559)[np.newaxis], RATE))


def test_it_says_what_it_does(tmp_path: Path) -> None:
    recipe = recipe_of(seamless(spare=1), tmp_path)
    assert (recipe.reference, recipe.exact, recipe.tokens(info_of(RATE))) == ("numpy", False, None)
    assert "filled with 0 to a multiple of 2, 2 frames side by side" in recipe.steps
    assert recipe.steps[-1] == "ignored keys of the file: spare"


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"stride": 1}, "`stride` is 1"),
        ({"padding_side": "left"}, "padding_side"),
        ({"feature_size": 1}, "feature_size"),
        ({"num_mel_bins": 0}, "num_mel_bins"),
    ],
)
def test_values_that_cannot_be_followed_are_refused(keys: Keys, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(seamless(**keys), tmp_path)
