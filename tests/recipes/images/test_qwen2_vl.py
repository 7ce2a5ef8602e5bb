"""Qwen2-VL's patches beside transformers' own."""

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
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import BACKENDS, agree, recipe_of, skip_without


def qwen(**keys: object) -> Keys:
    return {"image_processor_type": "Qwen2VLImageProcessor", **keys}


# As the checkpoints of Qwen2-VL and Qwen2.5-VL (legacy keys), and of Qwen3-VL, publish them.
PUBLISHED = {
    "Qwen2-VL-7B-Instruct": qwen(
        min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2
    ),
    "Qwen3-VL-8B-Instruct": qwen(
        size={"longest_edge": 16777216, "shortest_edge": 65536},
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ),
}
CONFIGS = {
    **PUBLISHED,
    "class defaults": qwen(),
    "a small budget": qwen(min_pixels=28 * 28 * 3, max_pixels=28 * 28 * 16),
    "one picture a patch, nothing merged": qwen(temporal_patch_size=1, merge_size=1, patch_size=7),
    "rescale only": qwen(do_normalize=False, max_pixels=100_000),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_patches_and_grid_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    recipe = recipe_of(CONFIGS[name], tmp_path, backend)
    assert recipe.exact
    for _, picture in pictures():
        if picture.size < 1_000_000:
            agree(recipe, CONFIGS[name], backend, picture)


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_large_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    recipe = recipe_of(CONFIGS[name], tmp_path, backend)
    for _, picture in pictures():
        if picture.size >= 1_000_000:
            agree(recipe, CONFIGS[name], backend, picture)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), name=st.sampled_from(sorted(CONFIGS)))
def test_the_plan_foretells_the_references_own_count(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    reference = processor(json.dumps(CONFIGS[name]), "pil")
    recipe = recipe_of(CONFIGS[name], tmp_path, "pil")
    info = ImageInfo("png", 1, width, height, "RGB")
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(CorruptMedia, match="aspect ratios of up to 200"):
            recipe.tokens(info)
        return
    patches = reference.get_number_of_image_patches(height, width, {})
    assert recipe.plan((height, width)).shapes["pixel_values"][0] == patches
    assert recipe.tokens(info) == patches // CONFIGS[name].get("merge_size", 2) ** 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["a small budget"]
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


def test_a_size_that_is_no_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="shortest_edge"):
        recipe_of(qwen(size={"height": 224, "width": 224}), tmp_path, "pil")


def test_without_a_resize_other_multiples_are_refused(tmp_path: Path) -> None:
    recipe = recipe_of(qwen(do_resize=False), tmp_path, "pil")
    with pytest.raises(CorruptMedia, match="multiples of 28"):
        recipe.plan((56, 57))
    assert recipe.plan((56, 84)).shapes["pixel_values"] == (24, 1176)
    agree(recipe, qwen(do_resize=False), "pil", np.zeros((56, 84, 3), np.uint8))
