"""Kimi K2.5's patches beside transformers' own, which are torchvision's alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import ImageInfo
from testbed.parity import Keys, processor
from testbed.pictures import KINDS
from tests.recipes.images.judge import agree, agree_on, large, recipe_of, skip_without, small


def kimi(**keys: object) -> Keys:
    return {"image_processor_type": "Kimi_K25ImageProcessor", **keys}


# The numbers of Kimi K2.5, which are the class's defaults too.
K25 = kimi(
    max_patches=16384,
    size={"max_height": 512, "max_width": 512},
    patch_size=14,
    merge_size=2,
    image_mean=[0.5, 0.5, 0.5],
    image_std=[0.5, 0.5, 0.5],
)
CONFIGS = {
    "Kimi K2.5": K25,
    "few patches": kimi(max_patches=30, patch_size=9),
    "few a side": kimi(size={"max_height": 5, "max_width": 5}, merge_size=3),
    "rescale only, nothing merged": kimi(do_normalize=False, merge_size=1, max_patches=100),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_patches_and_grid_are_bit_equal(name: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], "torchvision", tmp_path, small())


@pytest.mark.full
@pytest.mark.parametrize("name", ["Kimi K2.5", "few patches"])
def test_large_pictures_are_bit_equal(name: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], "torchvision", tmp_path, large())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 70_000), width=st.integers(1, 9000), name=st.sampled_from(sorted(CONFIGS)))
def test_the_plan_foretells_the_references_own_count(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    skip_without("torchvision")
    reference = processor(json.dumps(CONFIGS[name]), "torchvision")
    recipe = recipe_of(CONFIGS[name], tmp_path, "torchvision")
    patches = reference.get_number_of_image_patches(height, width, {})
    assert recipe.plan((height, width)).shapes["pixel_values"][0] == patches
    tokens = recipe.tokens(ImageInfo("png", 1, width, height, "RGB"))
    assert tokens == patches // reference.merge_size**2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("torchvision")
    keys = CONFIGS["few patches"]
    agree(recipe_of(keys, tmp_path, "torchvision"), keys, "torchvision", KINDS[kind](height, width))


def test_a_picture_is_shrunk_and_then_filled_up(tmp_path: Path) -> None:
    recipe = recipe_of(K25, tmp_path, "torchvision")
    assert recipe == recipe_of(kimi(), tmp_path, "torchvision")
    plan = recipe.plan((1080, 1920))
    assert plan.resized == ((1080, 1920),)
    assert plan.shapes["pixel_values"] == (78 * 138, 3, 14, 14)
    assert plan.tokens == 39 * 69
    assert recipe.plan((1, 65_000)).resized == ((1, 7168),)


def test_the_pil_backend_is_refused_and_torchvisions_followed_unasked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="torchvision"):
        recipe_of(kimi(), tmp_path, "pil")
    assert recipe_of(kimi(), tmp_path, "auto").reference == "torchvision"


def test_without_a_resize_other_multiples_are_refused(tmp_path: Path) -> None:
    recipe = recipe_of(kimi(do_resize=False), tmp_path, "torchvision")
    with pytest.raises(CorruptMedia, match="multiples of 14"):
        recipe.plan((28, 29))
    assert recipe.plan((28, 42)).shapes["pixel_values"][0] == 6
    skip_without("torchvision")
    agree(recipe, kimi(do_resize=False), "torchvision", np.full((28, 42, 3), 9, np.uint8))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"max_height": 512, "max_width": 511}),
        ("size", 512),
        ("max_patches", 0),
        ("do_pad", True),
    ],
)
def test_values_that_cannot_be_followed_are_refused(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_of(kimi(**{key: value}), tmp_path, "torchvision")
