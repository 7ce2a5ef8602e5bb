"""InternVL's and Cohere Vision's tiles beside transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RecipeError
from sidecar.media import ImageInfo
from sidecar.recipes.images.got_ocr2 import covering_grid
from testbed.parity import Keys, processor
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import BACKENDS, agree, agree_on, every, recipe_of, skip_without, small


def got(**keys: object) -> Keys:
    return {"image_processor_type": "GotOcr2ImageProcessor", **keys}


def cohere(**keys: object) -> Keys:
    return {"image_processor_type": "Cohere2VisionImageProcessor", **keys}


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# As the checkpoints publish them; InternVL's and Aya's are cut by their whole processors, whatever stands here.
PUBLISHED = {
    "InternVL3-8B-hf": got(
        crop_to_patches=True, min_patches=1, max_patches=12, size={"height": 448, "width": 448}, **IMAGENET
    ),
    "aya-vision-8b": got(
        crop_to_patches=True,
        min_patches=1,
        max_patches=12,
        size={"height": 364, "width": 364},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ),
    "GOT-OCR-2.0-hf": got(
        crop_to_patches=False, min_patches=1, max_patches=12, size={"height": 1024, "width": 1024}
    ),
}
CONFIGS = {
    "class defaults": got(),
    "small tiles": got(crop_to_patches=True, size={"height": 56, "width": 56}),
    "oblong tiles, three at least": got(
        crop_to_patches=True, size={"height": 40, "width": 72}, min_patches=3, max_patches=7
    ),
    "no grid has so many tiles": got(crop_to_patches=True, size=[50, 50], min_patches=9, max_patches=8),
    "one tile": got(crop_to_patches=True, size=60, max_patches=1),
    "cut without a resize": got(crop_to_patches=True, size=60, do_resize=False),
    "neither cut nor resized": got(do_resize=False, do_normalize=False),
}
COMMAND_A = "command-a-vision-07-2025"
COHERE = {
    COMMAND_A: cohere(
        crop_to_patches=True,
        max_patches=12,
        min_patches=1,
        patch_size=16,
        size={"height": 512, "width": 512},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ),
    "small tiles": cohere(size=64, max_patches=9),
    "not cut": cohere(size={"height": 60, "width": 30}, crop_to_patches=False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_tiles_of_published_models_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    recipe = recipe_of(PUBLISHED[name], tmp_path, backend)
    for shape in ((97, 61), (225, 223), (333, 777)):
        agree(recipe, PUBLISHED[name], backend, KINDS["noise"](*shape))


@pytest.mark.parametrize("name", COHERE)
def test_tiles_of_cohere_are_bit_equal(name: str, tmp_path: Path) -> None:
    skip_without("torchvision")
    recipe = recipe_of(COHERE[name], tmp_path, "auto")
    assert recipe.exact
    assert recipe.reference == "torchvision"
    for _, picture in pictures():
        if picture.size < (200_000 if name == COMMAND_A else 1_000_000):
            agree(recipe, COHERE[name], "torchvision", picture)


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_all_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(PUBLISHED[name], backend, tmp_path, every())


@pytest.mark.full
def test_all_pictures_of_cohere_are_bit_equal(tmp_path: Path) -> None:
    skip_without("torchvision")
    keys = COHERE[COMMAND_A]
    recipe = recipe_of(keys, tmp_path, "torchvision")
    for _, picture in pictures():
        agree(recipe, keys, "torchvision", picture)


SIDES = st.integers(1, 3000)
FREELY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FREELY
@given(height=SIDES, width=SIDES, name=st.sampled_from(sorted({**PUBLISHED, **CONFIGS})))
def test_the_plan_foretells_the_references_own_count(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    keys = {**PUBLISHED, **CONFIGS}[name]
    patches = processor(json.dumps(keys), "pil").get_number_of_image_patches(height, width)
    plan = recipe_of(keys, tmp_path, "pil").plan((height, width))
    assert plan.shapes["pixel_values"][0] == patches
    assert plan.tokens is None


@FREELY
@given(height=SIDES, width=SIDES, side=st.integers(8, 600), most=st.integers(1, 16))
def test_the_grid_of_cohere_is_the_references_own(height: int, width: int, side: int, most: int) -> None:
    skip_without("torchvision")
    from transformers.models.cohere2_vision import image_processing_cohere2_vision as judge

    across, down = judge.get_optimal_tiled_canvas((height, width), (side, side), 1, most)
    assert covering_grid((height, width), (side, side), 1, most) == (down, across)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["small tiles"]
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


WHOLE: dict[str, tuple[Keys, Keys]] = {
    "InternVLProcessor": ({"image_seq_length": 64}, {"image_seq_length": 64}),
    "QianfanOCRProcessor": ({}, {"image_seq_length": 256}),
    "AyaVisionProcessor": (
        {"img_size": 364, "patch_size": 14, "downsample_factor": 2},
        {"img_size": 364, "patch_size": 28},
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_processors_that_always_cut_are_followed(name: str, tmp_path: Path) -> None:
    numbers, attributes = WHOLE[name]
    keys = got(crop_to_patches=False, size=56)
    recipe = recipe_of(keys, tmp_path, "pil", processor_config={"processor_class": name, **numbers})
    import transformers  # seconds to import

    whole = getattr(transformers, name)
    cutting = {**keys, **whole.images_kwargs}
    for size in ((40, 40), (300, 100), (999, 1000)):
        info = ImageInfo("png", 1, size[1], size[0], "RGB")
        expected = _multimodal_tokens(whole, cutting, attributes, size)
        assert recipe.tokens(info) == expected["num_image_tokens"][0]
        assert recipe.plan(size).shapes["pixel_values"][0] == expected["num_image_patches"][0]
    skip_without("pil")
    agree(recipe, cutting, "pil", KINDS["ramp"](300, 100))


def _multimodal_tokens(whole: Any, keys: Keys, attributes: Keys, size: tuple[int, int]) -> Any:
    """What a whole processor says of a picture, without the tokenizer that it cannot be made without."""
    bare = SimpleNamespace(
        image_processor=processor(json.dumps(keys), "pil"),
        _merge_kwargs=lambda: {"images_kwargs": whole.images_kwargs},
        **attributes,
    )
    return whole._get_num_multimodal_tokens(bare, [size])


def test_got_ocr_itself_never_cuts(tmp_path: Path) -> None:
    keys = got(crop_to_patches=True, processor_class="GotOcr2Processor", size=56)
    plan = recipe_of(keys, tmp_path, "pil").plan((300, 100))
    assert plan.shapes["pixel_values"] == (1, 3, 56, 56)
    assert plan.tokens == 256


def test_a_model_type_names_its_whole_processor(tmp_path: Path) -> None:
    plan = recipe_of(got(), tmp_path, "pil", config={"model_type": "internvl"}).plan((384, 768))
    assert plan.shapes["pixel_values"] == (3, 3, 384, 384)
    assert plan.tokens is None, "its number is in processor_config.json"


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (300, 1000)])
def test_tokens_of_cohere_are_the_references_own(size: tuple[int, int], tmp_path: Path) -> None:
    skip_without("torchvision")
    import transformers

    keys, whole = COHERE["small tiles"], transformers.Cohere2VisionProcessor
    bare: Any = SimpleNamespace(
        image_processor=processor(json.dumps(keys), "torchvision"),
        patch_size=16,
        _merge_kwargs=lambda: {"images_kwargs": {}},
    )
    expected = whole._get_num_multimodal_tokens(bare, [size])["num_image_tokens"]
    assert [recipe_of(keys, tmp_path, "torchvision").plan(size).tokens] == expected


def test_cohere_has_no_pil_backend(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="for torchvision alone"):
        recipe_of(cohere(), tmp_path, "pil")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (got(size={"shortest_edge": 448}), "size"),
        (got(size={"height": 448}), "size"),
        (got(size=448, default_to_square=False), "size"),
        (got(crop_to_patches="yes"), "crop_to_patches"),
        (got(min_patches=0), "min_patches"),
        (got(max_patches=2.5), "max_patches"),
        (got(max_patches=10_000), "max_patches"),
        (got(crop_to_patches=True, max_patches=1, do_resize=False), "do_resize"),
        (got(do_center_crop=True), "do_center_crop"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"`{key}`"):
        recipe_of(keys, tmp_path, "pil")


def test_an_endless_strip_stays_within_its_grid(tmp_path: Path) -> None:
    plan = recipe_of(PUBLISHED["InternVL3-8B-hf"], tmp_path, "pil").plan((1, 65_000))
    assert plan.shapes == {"pixel_values": (13, 3, 448, 448), "num_patches": (1,)}
    assert plan.resized == ((448, 12 * 448), (448, 448))


def test_mirrored_pictures_are_cut_as_they_look(tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["small tiles"]
    turned = np.rot90(KINDS["noise"](120, 200))
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", turned)
