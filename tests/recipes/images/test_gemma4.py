"""Gemma 4's budget of patches beside transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import DataType, ImageInfo
from sidecar.recipes.images.gemma4 import pooled
from testbed.parity import Keys
from testbed.pictures import KINDS
from tests.recipes.images.judge import BACKENDS, agree, agree_on, large, recipe_of, skip_without, small


def gemma4(**keys: object) -> Keys:
    return {"image_processor_type": "Gemma4ImageProcessor", **keys}


# Gemma 4's numbers, which are the class's defaults too, and other budgets that the processor knows.
CONFIGS = {
    "gemma-4": gemma4(
        max_soft_tokens=280,
        pooling_kernel_size=3,
        patch_size=16,
        do_normalize=False,
        do_rescale=True,
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
        resample=3,
    ),
    "the least budget": gemma4(max_soft_tokens=70),
    "not pooled": gemma4(max_soft_tokens=140, pooling_kernel_size=1, patch_size=7),
    "normalised": gemma4(max_soft_tokens=70, do_normalize=True, image_mean=0.5, image_std=0.25, patch_size=5),
}
PUBLISHED = ("gemma-4", "the least budget")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_patches_positions_and_tokens_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keys", [*(CONFIGS[name] for name in PUBLISHED), gemma4(max_soft_tokens=1120)])
def test_large_pictures_are_bit_equal(keys: Keys, backend: str, tmp_path: Path) -> None:
    agree_on(keys, backend, tmp_path, large())


@given(
    height=st.integers(1, 70_000),
    width=st.integers(1, 70_000),
    patch=st.integers(1, 40),
    pool=st.integers(1, 5),
    tokens=st.sampled_from([70, 140, 280, 560, 1120]),
)
def test_a_pictures_size_is_the_references(
    height: int, width: int, patch: int, pool: int, tokens: int
) -> None:
    from transformers.models.gemma4.processing_gemma4 import get_aspect_ratio_preserving_size

    most = tokens * pool**2
    expected = get_aspect_ratio_preserving_size(height, width, patch, most, pool)
    assert pooled((height, width), patch, pool, most) == expected


def test_tokens_are_known_from_the_size_alone(tmp_path: Path) -> None:
    recipe = recipe_of(gemma4(), tmp_path, "pil")
    # 2520 patches of 16 are 645120 pixels: 1920x1080 fills 1070x602 of them, so 22 by 12 blocks of 48.
    assert recipe.tokens(ImageInfo("png", 1, 1920, 1080, "RGB")) == 22 * 12
    assert recipe.plan((1080, 1920)).resized == ((576, 1056),)
    assert recipe.plan((1, 65_000)).resized == ((48, 280 * 48),)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = gemma4(max_soft_tokens=70, patch_size=6, pooling_kernel_size=2)
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


def test_bytes_are_accepted_only_where_zero_stands_for_what_is_filled_in(tmp_path: Path) -> None:
    assert recipe_of(gemma4(), tmp_path, "pil").accepts("pixel_values", DataType.UINT8)
    normalised = recipe_of(CONFIGS["normalised"], tmp_path, "pil")
    assert not normalised.accepts("pixel_values", DataType.UINT8)


def test_without_a_resize_other_sizes_are_refused(tmp_path: Path) -> None:
    keys = gemma4(do_resize=False)
    recipe = recipe_of(keys, tmp_path, "pil")
    for size in ((48, 49), (1600, 1600)):
        with pytest.raises(CorruptMedia, match="at most 2520 patches"):
            recipe.plan(size)
    agree(recipe, keys, "pil", np.full((48, 96, 3), 9, np.uint8))


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_soft_tokens", 100), ("pooling_kernel_size", 0), ("patch_size", 1.5), ("do_flip", True)],
)
def test_values_that_cannot_be_followed_are_refused(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_of(gemma4(**{key: value}), tmp_path, "pil")
