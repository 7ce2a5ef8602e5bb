"""Llama 3.2 Vision's tiles beside transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RecipeError
from sidecar.media import DataType, ImageInfo
from testbed.parity import Keys
from testbed.pictures import KINDS
from tests.recipes.images.judge import BACKENDS, agree, agree_on, every, recipe_of, skip_without, small


def mllama(**keys: object) -> Keys:
    return {"image_processor_type": "MllamaImageProcessor", **keys}


# As the checkpoint publishes them.
PUBLISHED = {
    "Llama-3.2-11B-Vision-Instruct": mllama(
        do_convert_rgb=True,
        do_normalize=True,
        do_pad=True,
        do_rescale=True,
        do_resize=True,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
        max_image_tiles=4,
        resample=2,
        rescale_factor=0.00392156862745098,
        size={"height": 560, "width": 560},
    ),
}
CONFIGS = {
    "class defaults": mllama(),
    "small tiles, many": mllama(size={"height": 60, "width": 60}, max_image_tiles=9),
    "one tile": mllama(size=100, max_image_tiles=1, resample=3),
    "rescale only, by lanczos": mllama(size=[90, 90], do_normalize=False, resample=1),
    "bytes": mllama(size=50, max_image_tiles=6, do_normalize=False, do_rescale=False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_ids_masks_and_counts_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiles_of_a_published_model_are_bit_equal(backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    ((_, keys),) = PUBLISHED.items()
    recipe = recipe_of(keys, tmp_path, backend)
    for size in ((97, 61), (225, 700), (1300, 333)):
        agree(recipe, keys, backend, KINDS["noise"](*size))


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_all_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(PUBLISHED[name], backend, tmp_path, every())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    side=st.integers(2, 600),
    most=st.integers(1, 12),
)
def test_the_plan_has_the_references_own_sizes(
    height: int, width: int, side: int, most: int, tmp_path: Path
) -> None:
    from transformers.models.mllama import image_processing_pil_mllama as judge

    canvas = judge.get_optimal_tiled_canvas(height, width, most, side)
    target = judge.get_image_size_fit_to_canvas(height, width, *canvas, side)
    plan = recipe_of(mllama(size=side, max_image_tiles=most), tmp_path, "pil").plan((height, width))
    assert plan.resized == (target,)
    assert plan.tokens == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["small tiles, many"]
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        (mllama(), False),
        (mllama(max_image_tiles=1), True),
        (mllama(do_normalize=False), True),
        (mllama(do_normalize=False, do_rescale=False), True),
    ],
)
def test_bytes_are_taken_only_where_they_can_tell_a_missing_tile(
    keys: Keys, *, taken: bool, tmp_path: Path
) -> None:
    recipe = recipe_of(keys, tmp_path, "pil")
    assert recipe.accepts("pixel_values", DataType.UINT8) is taken
    assert recipe.accepts("pixel_values", DataType.BF16)
    assert not recipe.accepts("num_tiles", DataType.UINT8)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (mllama(size={"height": 560, "width": 448}), "size"),
        (mllama(size={"shortest_edge": 560}), "size"),
        (mllama(max_image_tiles=0), "max_image_tiles"),
        (mllama(max_image_tiles=10_000), "max_image_tiles"),
        (mllama(do_resize=False), "do_resize"),
        (mllama(do_pad=False), "do_pad"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"`{key}`"):
        recipe_of(keys, tmp_path, "pil")


def test_an_endless_strip_lies_on_one_row_of_tiles(tmp_path: Path) -> None:
    recipe = recipe_of(mllama(), tmp_path, "pil")
    assert recipe.plan((1, 65_000)).resized == ((1, 896),)
    types = {spec.name: spec.data_type for spec in recipe.outputs}
    assert recipe.output_bytes(ImageInfo("png", 1, 65_000, 1, "RGB"), types)["num_tiles"] == 8
