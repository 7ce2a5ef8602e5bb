"""SigLIP 2's patches beside transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import DataType
from sidecar.recipes.images.siglip2 import filled
from testbed.parity import Keys
from testbed.pictures import KINDS
from tests.recipes.images.judge import BACKENDS, agree, agree_on, large, recipe_of, skip_without, small


def siglip2(**keys: object) -> Keys:
    return {"image_processor_type": "Siglip2ImageProcessor", **keys}


# As the checkpoints publish them.
PUBLISHED = {
    "siglip2-base-patch16-naflex": siglip2(
        max_num_patches=256, patch_size=16, resample=2, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    ),
    "siglip2-so400m-patch16-naflex": siglip2(max_num_patches=256, patch_size=16, do_convert_rgb=None),
}
CONFIGS = {
    **PUBLISHED,
    "class defaults": siglip2(),
    "few patches": siglip2(max_num_patches=7, patch_size=9, resample=3),
    "rescale only": siglip2(
        max_num_patches=1000, patch_size=5, do_normalize=False, size={"height": 5, "width": 5}
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_patches_mask_and_shapes_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_large_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, large())


@given(
    height=st.integers(1, 70_000),
    width=st.integers(1, 70_000),
    patch=st.integers(1, 40),
    most=st.integers(1, 5000),
)
def test_a_pictures_size_is_the_references(height: int, width: int, patch: int, most: int) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    expected = get_image_size_for_max_num_patches(height, width, patch, most)
    assert filled((height, width), patch, most) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = siglip2(max_num_patches=60, patch_size=11)
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


def test_bytes_are_accepted_only_where_zero_stands_for_what_is_filled_in(tmp_path: Path) -> None:
    for keys, expected in ((siglip2(), False), (siglip2(do_normalize=False), True)):
        recipe = recipe_of(keys, tmp_path, "pil")
        assert recipe.accepts("pixel_values", DataType.UINT8) is expected
        assert recipe.accepts("pixel_values", DataType.BF16)
        assert not recipe.accepts("spatial_shapes", DataType.UINT8)


def test_without_a_resize_other_sizes_are_refused(tmp_path: Path) -> None:
    keys = siglip2(do_resize=False)
    recipe = recipe_of(keys, tmp_path, "pil")
    for size in ((32, 33), (320, 320)):
        with pytest.raises(CorruptMedia, match="at most 256 patches"):
            recipe.plan(size)
    agree(recipe, keys, "pil", np.full((32, 48, 3), 9, np.uint8))


@pytest.mark.parametrize(("key", "value"), [("max_num_patches", 0), ("patch_size", "16"), ("do_flip", True)])
def test_values_that_cannot_be_followed_are_refused(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_of(siglip2(**{key: value}), tmp_path, "pil")
