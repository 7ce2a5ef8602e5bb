"""Pixtral's and Mistral 3's pictures beside transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import ImageInfo
from sidecar.recipes.images.pixtral import boxed
from testbed.parity import Keys
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import BACKENDS, agree, recipe_of, skip_without


def pixtral(**keys: object) -> Keys:
    return {"image_processor_type": "PixtralImageProcessor", **keys}


def whole(**keys: object) -> Keys:
    return {"processor_class": "PixtralProcessor", **keys}


PIXTRAL_12B = pixtral(size={"longest_edge": 1024}, patch_size={"height": 16, "width": 16}, resample=3)
MISTRAL_SMALL = pixtral(size={"longest_edge": 1540}, patch_size=14)
# Image processor, whole processor, and the patch that the first is called with by the second.
PUBLISHED: dict[str, tuple[Keys, Keys | None, int]] = {
    "pixtral-12b": (PIXTRAL_12B, whole(patch_size=16), 16),
    "Mistral-Small-3.1-24B": (MISTRAL_SMALL, whole(patch_size=14, spatial_merge_size=2), 28),
    "LightOnOCR-1B": (
        MISTRAL_SMALL,
        {"processor_class": "LightOnOcrProcessor", "patch_size": 14, "spatial_merge_size": 2},
        14,
    ),
}
CONFIGS = {
    **PUBLISHED,
    "class defaults": (pixtral(), None, 16),
    "a small box": (pixtral(size={"height": 90, "width": 150}, patch_size=[7, 7]), None, 7),
    "a whole processor's defaults": (pixtral(size={"longest_edge": 200}, patch_size=5), whole(), 16),
    "no resize": (pixtral(do_resize=False), None, 16),
    "rescale only, one number": (pixtral(do_normalize=False, size=300, do_pad=False), None, 16),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_and_sizes_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    _all_agree(name, backend, tmp_path, large=False)


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_large_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    _all_agree(name, backend, tmp_path, large=True)


def _all_agree(name: str, backend: str, directory: Path, *, large: bool) -> None:
    skip_without(backend)
    keys, processor, patch = CONFIGS[name]
    files = {} if processor is None else {"processor_config": processor}
    recipe = recipe_of(keys, directory, backend, **files)
    assert recipe.exact
    for _, picture in pictures():
        if (picture.size >= 1_000_000) is large:
            agree(recipe, {**keys, "patch_size": {"height": patch, "width": patch}}, backend, picture)


@given(
    height=st.integers(1, 70_000),
    width=st.integers(1, 70_000),
    box=st.integers(16, 2000),
    patch=st.integers(1, 40),
)
def test_a_pictures_size_is_the_references(height: int, width: int, box: int, patch: int) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import (
        get_resize_output_image_size,
    )

    picture = np.broadcast_to(np.uint8(0), (3, height, width))
    expected = get_resize_output_image_size(picture, box, patch, "channels_first")
    assert boxed((height, width), (box, box), (patch, patch)) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(3, 3000), width=st.integers(3, 3000), name=st.sampled_from(sorted(PUBLISHED)))
def test_tokens_are_those_that_the_whole_processor_puts_into_the_prompt(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    skip_without("torchvision")
    import transformers

    keys, processor, _ = PUBLISHED[name]
    assert processor is not None
    recipe = recipe_of(keys, tmp_path, "pil", processor_config=processor)
    plan = recipe.plan((height, width))
    kind = getattr(transformers, processor["processor_class"])
    judge = kind.__new__(kind)
    merge = processor.get("spatial_merge_size", 1)
    judge.patch_size, judge.spatial_merge_size = processor["patch_size"], merge
    judge.effective_patch_size = processor["patch_size"] * merge
    judge.image_token, judge.image_break_token, judge.image_end_token = "i", "b", "e"
    sizes = {"image_sizes": [plan.shapes["pixel_values"][1:]]}
    assert plan.tokens == len(judge.replace_image_token(sizes, 0))


def test_rows_of_a_picture_end_in_a_token_of_their_own(tmp_path: Path) -> None:
    keys, processor, _ = PUBLISHED["Mistral-Small-3.1-24B"]
    assert processor is not None
    recipe = recipe_of(keys, tmp_path, "pil", processor_config=processor)
    # 3080 x 1540 is halved to 1540 x 770, which is 55 x 27.5 patches of 28: 28 rows of 55 and 1.
    assert recipe.tokens(ImageInfo("png", 1, 3080, 1540, "RGB")) == 28 * 56
    assert recipe.plan((1540, 3080)).resized == ((784, 1540),)


def test_tokens_are_unknown_where_no_file_names_the_whole_processor(tmp_path: Path) -> None:
    assert recipe_of(pixtral(), tmp_path, "pil").tokens(ImageInfo("png", 1, 64, 64, "RGB")) is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = pixtral(size={"longest_edge": 150}, patch_size=14)
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


def test_a_picture_of_which_nothing_would_be_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptMedia, match="leaves nothing"):
        recipe_of(pixtral(), tmp_path, "pil").plan((1, 65_000))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"shortest_edge": 224}),
        ("size", {"longest_edge": 0}),
        ("patch_size", {"height": 16}),
        ("patch_size", True),
        ("do_center_crop", True),
    ],
)
def test_values_that_cannot_be_followed_are_refused(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_of(pixtral(**{key: value}), tmp_path, "pil")
