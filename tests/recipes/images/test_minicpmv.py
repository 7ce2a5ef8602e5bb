"""The slices of MiniCPM-V and MiniCPM-OCR beside transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RecipeError
from sidecar.media import ImageInfo
from sidecar.recipes.loader import load_recipe
from testbed.parity import Keys, processor
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import BACKENDS, agree, recipe_of, skip_without


def minicpm(**keys: object) -> Keys:
    return {"image_processor_type": "MiniCPMV4_6ImageProcessor", **keys}


def ocr(**keys: object) -> Keys:
    return {"image_processor_type": "MiniCPMOcrImageProcessor", **keys}


HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# The numbers that the checkpoints of MiniCPM-V publish since 2.6.
PUBLISHED = {
    "as MiniCPM-V 4.6": minicpm(
        max_slice_nums=9, scale_resolution=448, patch_size=14, slice_mode=True, **HALVES
    ),
    "as MiniCPM-V 4.6, four times the tokens": minicpm(
        max_slice_nums=9, downsample_mode="4x", use_image_id=False
    ),
}
CONFIGS = {
    **PUBLISHED,
    "class defaults": minicpm(),
    "small slices, many": minicpm(scale_resolution=60, patch_size=5, max_slice_nums=12, downsample_mode="4x"),
    "no slices": minicpm(slice_mode=False, do_normalize=False),
    "one slice is none": minicpm(max_slice_nums=1, scale_resolution=100, resample=2),
}
OCR_CONFIGS = {
    "class defaults of OCR": ocr(),
    "small pictures left small": ocr(small_image_upsize="never", scale_resolution=200, max_slice_nums=4),
    "OCR merging more": ocr(downsample_mode="16x", small_image_upsize="always", image_mean=[0.4, 0.5, 0.6]),
}
CASES = [
    *((name, backend) for name in CONFIGS for backend in BACKENDS),
    *((name, "torchvision") for name in OCR_CONFIGS),
]


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_strips_sizes_and_grids_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    keys = (CONFIGS | OCR_CONFIGS)[name]
    recipe = recipe_of(keys, tmp_path, backend)
    assert recipe.exact
    # Slices of 448x448 take the reference a quarter of a second a picture.
    for _, picture in list(pictures())[:: 1 if keys.get("scale_resolution", 448) < 448 else 3]:
        if picture.size < 1_000_000:
            agree(recipe, keys, backend, picture)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "backend"), [case for case in CASES if case[0] in PUBLISHED or case[0] in OCR_CONFIGS]
)
def test_every_picture_is_bit_equal_with_published_keys(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    keys = (CONFIGS | OCR_CONFIGS)[name]
    recipe = recipe_of(keys, tmp_path, backend)
    for _, picture in pictures():
        agree(recipe, keys, backend, picture)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["small slices, many"]
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


def prompted(keys: Keys, targets: list[tuple[int, int]], grid: tuple[int, int]) -> int:
    """How many placeholders transformers' own processor writes for a picture."""
    from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor

    # As its own constructor leaves it, which needs a tokenizer to ask for these tokens.
    judge: Any = MiniCPMV4_6Processor.__new__(MiniCPMV4_6Processor)
    judge.slice_mode = keys.get("slice_mode", True)
    judge.image_token = "*"
    for marker in ("image_start_token", "image_end_token", "slice_start_token", "slice_end_token"):
        setattr(judge, marker, "|")
    inputs = {"grids": [grid], "num_patches_per_image": [len(targets)], "target_sizes": np.array(targets)}
    divisor = 4 if keys.get("downsample_mode") == "4x" else 16
    return int(judge.replace_image_token(inputs, 0, image_token_divisor=divisor).count("*"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 5000) | st.integers(1, 50),
    width=st.integers(1, 5000) | st.integers(1, 50),
    name=st.sampled_from(sorted(CONFIGS)),
)
def test_the_plan_foretells_the_references_sizes_and_tokens(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    keys = CONFIGS[name]
    judge = processor(json.dumps(keys, sort_keys=True), "pil")
    edge, patch, mode = judge.scale_resolution, judge.patch_size, judge.downsample_mode
    size, grid = (height, width), None
    if judge.slice_mode:
        grid = judge.get_sliced_grid(size, judge.max_slice_nums, edge)
    whole = judge.find_best_resize(size, edge, patch, mode, allow_upscale=grid is None)
    targets = [(whole[0] // patch, whole[1] // patch)]
    sliced = (0, 0)
    if grid is not None:
        sliced = judge.get_refine_size(size, grid, edge, patch, mode, allow_upscale=True)
        targets += [(sliced[0] // grid[0] // patch, sliced[1] // grid[1] // patch)] * (grid[0] * grid[1])
    recipe = recipe_of(keys, tmp_path, "pil")
    plan: Any = recipe.plan(size)
    assert (plan.whole, plan.sliced, plan.grid) == (whole, sliced, None if grid is None else tuple(grid))
    assert plan.shapes["target_sizes"] == (len(targets), 2)
    expected = prompted(keys, targets, grid or (0, 0))
    assert recipe.tokens(ImageInfo("png", 1, width, height, "RGB")) == expected


def test_a_processor_of_one_backend_follows_that_one(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ocr()), encoding="utf-8")
    assert load_recipe(tmp_path).reference == "torchvision"
    with pytest.raises(RecipeError, match="torchvision"):
        load_recipe(tmp_path, reference="pil")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (minicpm(do_resize=False), "do_resize"),
        (minicpm(downsample_mode="8x"), "downsample_mode"),
        (minicpm(max_slice_nums=0), "max_slice_nums"),
        (minicpm(max_slice_nums=1000), "max_slice_nums"),
        (minicpm(slice_mode="yes"), "slice_mode"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(keys, tmp_path, "pil")


def test_a_size_that_depends_on_what_a_picture_shows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="small_image_upsize"):
        recipe_of(ocr(small_image_upsize="adaptive"), tmp_path, "torchvision")
