"""The tiles of LLaVA-NeXT and LLaVA-OneVision beside transformers' own."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RecipeError
from sidecar.media import ImageInfo
from testbed.parity import Keys, processor
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import BACKENDS, agree, agree_on, every, recipe_of, skip_without


def llava(**keys: object) -> Keys:
    return {"image_processor_type": "LlavaNextImageProcessor", **keys}


def onevision(**keys: object) -> Keys:
    return {"image_processor_type": "LlavaOnevisionImageProcessor", **keys}


CLIP_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
NEXT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SIGLIP_384 = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
ONEVISION_PINPOINTS = [list(pair) for pair in product(range(384, 2305, 384), repeat=2)]
GRANITE_PINPOINTS = [
    [384 * down, 384 * across] for down, across in product(range(1, 11), repeat=2) if down * across <= 10
]  # fmt: skip

# As the checkpoints publish them, each with what its processor_config.json says.
PUBLISHED: dict[str, tuple[Keys, Keys]] = {
    "llava-v1.6-mistral-7b-hf": (
        llava(**CLIP_336, image_grid_pinpoints=NEXT_PINPOINTS, aspect_ratio_setting="anyres"),
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "granite-vision-3.2-2b": (
        llava(**SIGLIP_384, crop_size={"height": 384, "width": 384}, image_grid_pinpoints=GRANITE_PINPOINTS),
        {"patch_size": 14, "vision_feature_select_strategy": "full"},
    ),
    "llava-onevision-qwen2-7b-ov-hf": (
        onevision(**SIGLIP_384, image_grid_pinpoints=ONEVISION_PINPOINTS),
        {
            "num_image_tokens": 729,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
    ),
}
CONFIGS = {
    **{name: keys for name, (keys, _) in PUBLISHED.items()},
    "class defaults, with tiles cut off and cropped": llava(),
    "class defaults of OneVision": onevision(),
    "odd tiles, resized once more": llava(
        size={"height": 60, "width": 45}, crop_size=[71, 53], image_grid_pinpoints=[[71, 142], [150, 99]]
    ),
    "no crop, cut by its size": llava(
        size=64, crop_size=96, do_center_crop=False, image_grid_pinpoints=[[96, 192], [192, 96]], resample=2
    ),
    "a single resolution, rescale only": onevision(
        size=[50, 50], image_grid_pinpoints=[[100, 150]], do_normalize=False, resample=1
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_and_sizes_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    recipe = recipe_of(CONFIGS[name], tmp_path, backend)
    assert recipe.exact
    # Resolutions of many tiles take the reference half a second a picture.
    for _, picture in list(pictures())[:: 3 if name in PUBLISHED else 1]:
        if picture.size < 1_000_000:
            agree(recipe, CONFIGS[name], backend, picture)


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_picture_is_bit_equal_with_published_keys(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, every())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["odd tiles, resized once more"]
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


COUNTED = {
    **PUBLISHED,
    "granite 4": (
        PUBLISHED["granite-vision-3.2-2b"][0],
        {"patch_size": 16, "processor_class": "Granite4VisionProcessor", "downsample_rate": "4/8"},
    ),
    "few tiles' tokens": (
        PUBLISHED["llava-onevision-qwen2-7b-ov-hf"][0],
        {"num_image_tokens": 730, "vision_feature_select_strategy": "default", "vision_aspect_ratio": "anyres_max_4"},
    ),
    "no strategy": (llava(), {"patch_size": 15}),
}  # fmt: skip


def prompted(keys: Keys, of_processor: Keys, size: tuple[int, int], tile: tuple[int, ...]) -> int:
    """How many placeholders transformers' own processor writes for a picture."""
    from transformers.models.granite4_vision.processing_granite4_vision import (
        Granite4VisionProcessor,
    )
    from transformers.models.llava_next.processing_llava_next import (
        LlavaNextProcessor,
    )
    from transformers.models.llava_onevision.processing_llava_onevision import (
        LlavaOnevisionProcessor,
    )

    kind: Any = LlavaNextProcessor
    if keys["image_processor_type"] == "LlavaOnevisionImageProcessor":
        kind = LlavaOnevisionProcessor
    if of_processor.get("processor_class") == "Granite4VisionProcessor":
        kind = Granite4VisionProcessor
    # As its own constructor leaves it, which needs a tokenizer to ask for this one token.
    judge = kind.__new__(kind)
    defaults = {"num_additional_image_tokens": 0, "vision_feature_select_strategy": None}
    for key, value in (defaults | of_processor).items():
        setattr(judge, key, value)
    judge.image_token = "*"
    judge.image_processor = processor(json.dumps(keys, sort_keys=True), "pil")
    inputs = {"image_sizes": [list(size)], "batch_num_images": [1], "pixel_values": [[np.empty((3, *tile))]]}
    return len(judge.replace_image_token(inputs, 0))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 5000) | st.integers(1, 50),
    width=st.integers(1, 5000) | st.integers(1, 50),
    name=st.sampled_from(sorted(COUNTED)),
)
def test_as_many_tokens_as_the_processor_writes(height: int, width: int, name: str, tmp_path: Path) -> None:
    keys, of_processor = COUNTED[name]
    recipe = recipe_of(keys, tmp_path, "pil", processor_config=of_processor)
    tile = recipe.outputs[0].shape[2:]
    expected = prompted(keys, of_processor, (height, width), tile)
    assert recipe.tokens(ImageInfo("png", 1, width, height, "RGB")) == expected


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 9000), width=st.integers(1, 9000), name=st.sampled_from(sorted(CONFIGS)))
def test_the_resolution_and_the_fit_are_the_references(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    from transformers.image_processing_utils import (
        get_patch_output_size,
        select_best_resolution,
    )

    reference = processor(json.dumps(CONFIGS[name], sort_keys=True), "pil")
    plan: Any = recipe_of(CONFIGS[name], tmp_path, "pil").plan((height, width))
    assert plan.place.size == select_best_resolution((height, width), reference.image_grid_pinpoints)
    picture = np.broadcast_to(np.uint8(0), (height, width, 3))
    assert plan.target == get_patch_output_size(picture, plan.place.size, "channels_last")


@pytest.mark.parametrize(
    "of_processor",
    [
        {"image_token": "<image>"},
        {"patch_size": 14, "processor_class": "AnotherProcessor"},
        {"patch_size": 337},
    ],
)
def test_tokens_that_the_files_do_not_tell_are_none(of_processor: Keys, tmp_path: Path) -> None:
    keys = PUBLISHED["llava-v1.6-mistral-7b-hf"][0]
    recipe = recipe_of(keys, tmp_path, "pil", processor_config=of_processor)
    assert recipe.plan((480, 640)).tokens is None


def test_tokens_are_none_where_a_tile_is_larger_than_its_resolution(tmp_path: Path) -> None:
    keys = llava(image_grid_pinpoints=[[112, 448]])
    recipe = recipe_of(keys, tmp_path, "pil", processor_config={"patch_size": 14})
    assert recipe.plan((480, 640)).tokens is None


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (llava(do_resize=False), "do_resize"),
        (llava(size={"shortest_edge": 224, "longest_edge": 448}), "shortest_edge"),
        (llava(size={"height": 0, "width": 224}), "each side at least 1"),
        (llava(crop_size={"height": 100_000, "width": 100_000}), "pixels in all"),
        (llava(image_grid_pinpoints=[]), "a list of resolutions"),
        (llava(image_grid_pinpoints=[[336, 672], [336]]), "a list of resolutions"),
        (llava(image_grid_pinpoints="(1x1),...,(6x6)"), "a list of resolutions"),
        (llava(image_grid_pinpoints=[[100_000, 100_000]]), "pixels in all"),
        (llava(do_center_crop=False), "multiples of 224"),
        (llava(size=3000, image_grid_pinpoints=[[225, 224]]), "multiples of 224"),
        (onevision(do_center_crop=True), "crop_size"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(keys, tmp_path, "pil")


@pytest.mark.parametrize(
    ("keys", "of_processor", "complaint"),
    [
        (llava(), {"patch_size": 0}, "patch_size"),
        (
            llava(),
            {"patch_size": 14, "processor_class": "Granite4VisionProcessor", "downsample_rate": 2},
            "downsample_rate",
        ),
        (onevision(), {"num_image_tokens": 729, "vision_aspect_ratio": "pad"}, "vision_aspect_ratio"),
    ],
)
def test_keys_of_the_processor_that_cannot_be_followed_are_refused(
    keys: Keys, of_processor: Keys, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(keys, tmp_path, "pil", processor_config=of_processor)
