"""The crops of Phi-4-multimodal beside transformers' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import DataType, ImageInfo
from sidecar.recipes.image import ImageRecipe, Plan
from sidecar.recipes.loader import load_recipe
from testbed.parity import Keys, processor
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import agree, recipe_of, skip_without

TORCHVISION = "torchvision"


def phi(**keys: object) -> Keys:
    return {"image_processor_type": "Phi4MultimodalImageProcessor", **keys}


CONFIGS = {
    "Phi-4-multimodal-instruct": phi(
        dynamic_hd=36,
        patch_size=14,
        size={"height": 448, "width": 448},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ),
    "small crops, many": phi(size={"height": 64, "width": 64}, patch_size=8, image_mean=[0.48, 0.46, 0.41]),
    "small crops, few": phi(size=48, dynamic_hd=7, patch_size=16, do_normalize=False),
    "patches that do not fill a crop": phi(size=100, dynamic_hd=12, patch_size=9, do_rescale=False),
}


def refused(keys: Keys, picture: tuple[int, int]) -> bool:
    """Whether the reference refuses a picture of (height, width) for its aspect ratio."""
    judge = processor(json.dumps(keys, sort_keys=True), TORCHVISION)
    try:
        judge(np.zeros((*picture, 3), np.uint8), input_data_format="channels_last")
    except ValueError as error:
        return "the aspect ratio is very extreme" in str(error)
    return False


def agree_or_both_refuse(recipe: ImageRecipe[Plan], keys: Keys, picture: npt.NDArray[np.uint8]) -> None:
    size = picture.shape[0], picture.shape[1]
    if refused(keys, size):
        with pytest.raises(CorruptMedia, match="takes 10 pixels a side"):
            recipe.plan(size)
    else:
        agree(recipe, keys, TORCHVISION, picture)


@pytest.mark.parametrize("name", CONFIGS)
def test_crops_masks_and_sizes_are_bit_equal(name: str, tmp_path: Path) -> None:
    skip_without(TORCHVISION)
    recipe = recipe_of(CONFIGS[name], tmp_path, TORCHVISION)
    assert recipe.exact
    for _, picture in pictures():
        if picture.size < 1_000_000:
            agree_or_both_refuse(recipe, CONFIGS[name], picture)


@pytest.mark.full
@pytest.mark.parametrize("name", CONFIGS)
def test_large_pictures_are_bit_equal(name: str, tmp_path: Path) -> None:
    skip_without(TORCHVISION)
    recipe = recipe_of(CONFIGS[name], tmp_path, TORCHVISION)
    for _, picture in pictures():
        if picture.size >= 1_000_000:
            agree_or_both_refuse(recipe, CONFIGS[name], picture)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(2, 500) | st.integers(2, 20),
    width=st.integers(2, 500) | st.integers(2, 20),
    name=st.sampled_from(sorted(set(CONFIGS) - {"Phi-4-multimodal-instruct"})),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_pictures_of_any_shape_are_bit_equal_or_refused(
    height: int, width: int, name: str, kind: str, tmp_path: Path
) -> None:
    skip_without(TORCHVISION)
    recipe = recipe_of(CONFIGS[name], tmp_path, TORCHVISION)
    agree_or_both_refuse(recipe, CONFIGS[name], KINDS[kind](height, width))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), name=st.sampled_from(sorted(set(CONFIGS))))
def test_tokens_are_those_that_the_processor_counts(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    skip_without(TORCHVISION)
    assume(not refused(CONFIGS[name], (height, width)))
    judge = processor(json.dumps(CONFIGS[name], sort_keys=True), TORCHVISION)
    given_ = judge(np.zeros((height, width, 3), np.uint8), input_data_format="channels_last")
    recipe = recipe_of(CONFIGS[name], tmp_path, TORCHVISION)
    assert [recipe.tokens(ImageInfo("png", 1, width, height, "RGB"))] == given_["num_img_tokens"]


def test_tokens_of_a_whole_canvas(tmp_path: Path) -> None:
    # 16 by 16 for the small canvas and for each of 2 by 3 crops, a line's end a row, and a separator.
    recipe = recipe_of(phi(), tmp_path, TORCHVISION)
    plan = recipe.plan((896, 1344))
    assert plan.tokens == 16 * (16 + 1) + 1 + 32 * (48 + 1)
    assert plan.shapes["image_attention_mask"] == (7, 32, 32)


def test_an_extreme_picture_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(CorruptMedia, match="crop it before sending"):
        recipe_of(phi(), tmp_path, TORCHVISION).plan((1, 65000))


def test_bytes_are_not_to_be_had(tmp_path: Path) -> None:
    recipe = recipe_of(phi(), tmp_path, TORCHVISION)
    assert not recipe.accepts("image_pixel_values", DataType.UINT8)
    assert recipe.accepts("image_pixel_values", DataType.BF16)
    assert recipe.accepts("image_attention_mask", DataType.INT64)
    assert not recipe.accepts("image_sizes", DataType.FP32)


def test_a_processor_of_one_backend_follows_that_one(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(phi()), encoding="utf-8")
    assert load_recipe(tmp_path).reference == "torchvision"
    with pytest.raises(RecipeError, match="torchvision"):
        load_recipe(tmp_path, reference="pil")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (phi(do_resize=False), "do_resize"),
        (phi(resample=2), "resample"),
        (phi(size={"height": 448, "width": 224}), "that are the same"),
        (phi(size={"shortest_edge": 448}), "that are the same"),
        (phi(dynamic_hd=0), "dynamic_hd"),
        (phi(dynamic_hd=1000), "dynamic_hd"),
        (phi(patch_size=449), "patch_size"),
        (phi(do_rescale=False, do_normalize=False), "do_rescale"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(keys, tmp_path, TORCHVISION)
