"""Qwen2-VL's patches, and those of its near copies, beside transformers' own."""

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
from tests.recipes.images.judge import BACKENDS, agree, agree_on, large, recipe_of, skip_without, small


def qwen(**keys: object) -> Keys:
    return {"image_processor_type": "Qwen2VLImageProcessor", **keys}


def copy(name: str, **keys: object) -> Keys:
    return {"image_processor_type": f"{name}ImageProcessor", **keys}


# As the checkpoints of Qwen2-VL and Qwen2.5-VL (legacy keys), of Qwen3-VL and of the copies publish them.
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
    "GLM-4.1V-9B-Thinking": copy(
        "Glm4v",
        size={"shortest_edge": 12544, "longest_edge": 9633792},
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
    ),
    "PaddleOCR-VL": copy(
        "PaddleOCRVL",
        min_pixels=147384,
        max_pixels=2822400,
        patch_size=14,
        temporal_patch_size=1,
        merge_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ),
}
SMALL = {"shortest_edge": 28 * 28 * 3, "longest_edge": 28 * 28 * 16}
CONFIGS = {
    **PUBLISHED,
    "class defaults": qwen(),
    "a small budget": qwen(min_pixels=28 * 28 * 3, max_pixels=28 * 28 * 16),
    "one picture a patch, nothing merged": qwen(temporal_patch_size=1, merge_size=1, patch_size=7),
    "rescale only": qwen(do_normalize=False, max_pixels=100_000),
    "GLM-4.6V, a small budget": copy("Glm46V", size=SMALL),
    "GLM, one picture a patch": copy("Glm4v", size=SMALL, temporal_patch_size=1, merge_size=3),
    "Ernie": copy("Ernie4_5_VLMoe"),
    "Ernie, three pictures a patch": copy("Ernie4_5_VL_Moe", size=SMALL, temporal_patch_size=3),
    "PaddleOCR, two pictures a patch": copy("PaddleOCRVL", size=SMALL, temporal_patch_size=2),
    "VideoLLaMA 3": copy("VideoLlama3", size=SMALL),
    "VideoLLaMA 3, merged": copy("VideoLlama3", size=SMALL, merge_size=2),
    "MiniMax-M3": copy("MiniMaxM3VL", size=[672, 672], min_pixels=4000),
    "MiniMax-M3, a small budget": copy("MiniMaxM3VL", size=SMALL),
}
# Of which transformers has no PIL backend.
TORCHVISION_ONLY = {name for name in CONFIGS if name.startswith("MiniMax")}
RUNS = [
    (name, backend)
    for name in CONFIGS
    for backend in BACKENDS
    if backend == "torchvision" or name not in TORCHVISION_ONLY
]
PIL_CONFIGS = sorted(set(CONFIGS) - TORCHVISION_ONLY)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_patches_and_grid_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_large_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, large())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), name=st.sampled_from(PIL_CONFIGS))
def test_the_plan_foretells_the_references_own_count(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    _count_agrees(height, width, name, "pil", tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 3000), width=st.integers(1, 3000), name=st.sampled_from(sorted(TORCHVISION_ONLY))
)
def test_so_it_does_where_there_is_torchvision_alone(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    skip_without("torchvision")
    _count_agrees(height, width, name, "torchvision", tmp_path)


def _count_agrees(height: int, width: int, name: str, backend: str, directory: Path) -> None:
    reference = processor(json.dumps(CONFIGS[name]), backend)
    recipe = recipe_of(CONFIGS[name], directory, backend)
    info = ImageInfo("png", 1, width, height, "RGB")
    try:
        patches = reference.get_number_of_image_patches(height, width, {})
    except ValueError:
        with pytest.raises(CorruptMedia, match="aspect ratios of up to 200"):
            recipe.tokens(info)
        return
    assert recipe.plan((height, width)).shapes["pixel_values"][0] == patches
    assert recipe.tokens(info) == patches // reference.merge_size**2


def test_a_copy_without_a_pil_backend_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="torchvision"):
        recipe_of(CONFIGS["MiniMax-M3"], tmp_path, "pil")
    assert recipe_of(CONFIGS["MiniMax-M3"], tmp_path, "auto").reference == "torchvision"


def test_legacy_names_that_a_copy_does_not_know_are_listed_as_ignored(tmp_path: Path) -> None:
    recipe = recipe_of(copy("Glm4v", min_pixels=5, max_pixels=6), tmp_path, "pil")
    assert recipe.common.ignored == ("max_pixels", "min_pixels")


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
