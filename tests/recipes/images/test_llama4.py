"""Llama 4's tiles beside transformers' own, which exist for torchvision alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RecipeError
from sidecar.media import DataType, ImageInfo
from sidecar.recipes.image import ImageRecipe, Plan
from sidecar.stages.pack import bfloat16_bits
from testbed.parity import Keys, processor
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import made, recipe_of, skip_without


def llama(**keys: object) -> Keys:
    return {"image_processor_type": "Llama4ImageProcessor", **keys}


# As the checkpoint publishes them.
SCOUT = llama(
    do_convert_rgb=True,
    do_normalize=True,
    do_rescale=True,
    do_resize=True,
    image_mean=[0.5, 0.5, 0.5],
    image_std=[0.5, 0.5, 0.5],
    max_patches=16,
    resample=2,
    rescale_factor=0.00392156862745098,
    resize_to_max_canvas=False,
    size={"height": 336, "width": 336},
)
CONFIGS = {
    "small tiles": llama(size=60),
    "to the largest canvas": llama(size=[56, 56], max_patches=9, resize_to_max_canvas=True, resample=3),
    "odd numbers": llama(
        size=70,
        max_patches=5,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        rescale_factor=0.0041,
    ),
    "one tile": llama(size=100, max_patches=1),
    "rescale only": llama(size=64, max_patches=4, do_normalize=False),
    "bytes": llama(size=64, max_patches=4, do_normalize=False, do_rescale=False),
}


def agrees(recipe: ImageRecipe[Plan], keys: Keys, picture: npt.NDArray[np.uint8]) -> None:
    """Asserts that outputs are the reference's to the bit, in its own type, in float32 and as bytes."""
    natural = {spec.name: spec.data_type for spec in recipe.outputs}
    found = made(recipe, picture, natural)
    values, ratios = _reference(keys, picture)
    assert np.array_equal(ratios, found["aspect_ratios"])
    pixels = found["pixel_values"]
    own = bfloat16_bits(values) if natural["pixel_values"] is DataType.BF16 else values
    assert own.shape == pixels.shape
    assert np.array_equal(own, pixels)
    whole = made(recipe, picture, natural | {"pixel_values": DataType.FP32})
    assert np.array_equal(values, whole["pixel_values"])
    bare, _ = _reference({**keys, "do_rescale": False, "do_normalize": False}, picture)
    found = made(recipe, picture, natural | {"pixel_values": DataType.UINT8})
    assert np.array_equal(bare, found["pixel_values"])


def _reference(keys: Keys, picture: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], Any]:
    """Tiles, which numpy has no type for, as float32, and the canvas."""
    given = processor(json.dumps(keys, sort_keys=True), "torchvision")(
        picture, input_data_format="channels_last", return_tensors="pt"
    )
    return given["pixel_values"].float().numpy(), given["aspect_ratios"].numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_and_canvas_are_bit_equal(name: str, tmp_path: Path) -> None:
    skip_without("torchvision")
    recipe = recipe_of(CONFIGS[name], tmp_path, "auto")
    assert recipe.exact
    assert recipe.reference == "torchvision"
    for _, picture in pictures():
        if picture.size < 500_000:
            agrees(recipe, CONFIGS[name], picture)


@pytest.mark.full
def test_all_pictures_are_bit_equal(tmp_path: Path) -> None:
    skip_without("torchvision")
    recipe = recipe_of(SCOUT, tmp_path, "torchvision")
    for _, picture in pictures():
        agrees(recipe, SCOUT, picture)


@pytest.mark.parametrize("size", [(97, 61), (225, 700), (1300, 333)])
def test_tiles_of_a_published_model_are_bit_equal(size: tuple[int, int], tmp_path: Path) -> None:
    skip_without("torchvision")
    agrees(recipe_of(SCOUT, tmp_path, "torchvision"), SCOUT, KINDS["noise"](*size))


class Asked(Exception):
    """Stops a reference at its first resize, and has the size that was asked for."""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(4, 2000),
    width=st.integers(4, 2000),
    side=st.integers(2, 600),
    most=st.integers(1, 16),
    fills=st.booleans(),
)
def test_the_plan_has_the_references_own_sizes(
    height: int, width: int, side: int, most: int, *, fills: bool, tmp_path: Path
) -> None:
    skip_without("torchvision")
    import torch
    from transformers.image_utils import SizeDict
    from transformers.models.llama4 import image_processing_llama4 as judge

    def stop(_: object, size: Any, **__: object) -> None:
        raise Asked((int(size.height), int(size.width)))

    keys = llama(size=side, max_patches=most, resize_to_max_canvas=fills)
    reference: Any = judge.Llama4ImageProcessor(**keys)
    reference.resize = stop
    with pytest.raises(Asked) as asked:
        reference(torch.empty((3, height, width), dtype=torch.uint8))
    canvases = judge.find_supported_resolutions(most, SizeDict(height=side, width=side))
    canvas: Any = judge.get_best_fit((height, width), torch.tensor(canvases), resize_to_max_canvas=fills)
    tiles = int(canvas.prod()) // side**2

    plan = recipe_of(keys, tmp_path, "torchvision").plan((height, width))
    assert plan.resized[0] == asked.value.args[0]
    assert plan.shapes["pixel_values"][0] == tiles + (tiles > 1)


@pytest.mark.parametrize("size", [(60, 60), (60, 120), (200, 100), (300, 290)])
def test_tokens_are_those_that_the_whole_processor_writes(size: tuple[int, int], tmp_path: Path) -> None:
    from transformers import Llama4Processor

    recipe = recipe_of(llama(size=60), tmp_path, "auto", processor_config={"patch_size": 10})
    tiles = made(recipe, KINDS["ramp"](*size), {spec.name: spec.data_type for spec in recipe.outputs})
    bare: Any = SimpleNamespace(patch_size=10, downsample_ratio=4)
    bare._prompt_split_image = lambda *numbers: Llama4Processor._prompt_split_image(bare, *numbers)
    written = Llama4Processor.replace_image_token(bare, tiles, 0)
    assert recipe.tokens(ImageInfo("png", 1, size[1], size[0], "RGB")) == len(
        re.findall(r"<\|\w+\|>", written)
    )


def test_tokens_are_not_known_without_their_numbers(tmp_path: Path) -> None:
    assert recipe_of(SCOUT, tmp_path, "auto").plan((336, 336)).tokens is None


def test_there_is_no_pil_backend(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="for torchvision alone"):
        recipe_of(llama(), tmp_path, "pil")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (llama(size={"height": 336, "width": 224}), "size"),
        (llama(size={"longest_edge": 336}), "size"),
        (llama(max_patches=0), "max_patches"),
        (llama(max_patches=1000), "max_patches"),
        (llama(do_resize=False), "do_resize"),
        (llama(do_rescale=False), "do_normalize"),
        (llama(resize_to_max_canvas="no"), "resize_to_max_canvas"),
        (llama(resample=4), "reference"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"`{key}`"):
        recipe_of(keys, tmp_path, "auto")


def test_an_endless_strip_lies_on_one_row_of_tiles(tmp_path: Path) -> None:
    plan = recipe_of(SCOUT, tmp_path, "auto").plan((1, 65_000))
    assert plan.shapes["pixel_values"] == (17, 3, 336, 336)
    assert plan.resized == ((1, 16 * 336), (336, 336))
