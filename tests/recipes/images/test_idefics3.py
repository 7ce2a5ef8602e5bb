"""Idefics3's and SmolVLM's squares beside transformers' own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sidecar.errors import MediaTooLarge, RecipeError
from sidecar.media import ImageInfo
from testbed.parity import Keys, processor, reference_outputs
from testbed.pictures import KINDS, pictures
from tests.recipes.images.judge import BACKENDS, agree, agree_on, recipe_of, skip_without, small


def idefics(**keys: object) -> Keys:
    return {"image_processor_type": "Idefics3ImageProcessor", **keys}


def smol(**keys: object) -> Keys:
    return {"image_processor_type": "SmolVLMImageProcessor", **keys}


def edges(longest: int, side: int) -> Keys:
    return {
        "do_image_splitting": True,
        "do_pad": True,
        "max_image_size": {"longest_edge": side},
        "resample": 1,
        "size": {"longest_edge": longest},
    }


# As the checkpoints publish them.
PUBLISHED = {
    "Idefics3-8B-Llama3": idefics(**edges(1456, 364)),
    "SmolVLM-Instruct": smol(**edges(1536, 384)),
    "SmolVLM2-500M-Video-Instruct": smol(**edges(2048, 512)),
}
CONFIGS = {
    "small squares, and the grid told": idefics(**edges(240, 60), return_row_col_info=True),
    "edges that are no multiples": smol(**edges(231, 64), return_row_col_info=True),
    "an odd edge": idefics(**{**edges(75, 30), "resample": 3}),
    "both sides set": idefics(
        size={"height": 100, "width": 130}, max_image_size={"longest_edge": 50}, do_pad=False
    ),
    "not split": idefics(
        **{**edges(120, 48), "do_image_splitting": False}, return_row_col_info=True, do_normalize=False
    ),
    "squares of what came": idefics(
        do_resize=False, max_image_size={"longest_edge": 200}, return_row_col_info=True
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_squares_masks_and_grids_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_squares_of_published_models_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    recipe = recipe_of(PUBLISHED[name], tmp_path, backend)
    agree(recipe, PUBLISHED[name], backend, KINDS["noise"](97, 300))


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*PUBLISHED, "class defaults"])
def test_all_pictures_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    keys = PUBLISHED.get(name, idefics())
    recipe = recipe_of(keys, tmp_path, backend)
    for _, picture in pictures():
        agree(recipe, keys, backend, picture)


SIDES = st.integers(1, 4000)
FREELY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FREELY
@given(height=SIDES, width=SIDES, longest=st.integers(1, 6000), side=st.integers(2, 600))
def test_sizes_after_each_resize_are_the_references_own(
    height: int, width: int, longest: int, side: int, tmp_path: Path
) -> None:
    sizes = _reference_sizes(idefics(**edges(longest, side)), (height, width))
    assume(0 not in sizes[-1])
    plan = recipe_of(idefics(**edges(longest, side)), tmp_path, "pil").plan((height, width))
    assert list(plan.resized[:2]) == sizes


def _reference_sizes(keys: Keys, size: tuple[int, int]) -> list[tuple[int, int]]:
    """What the reference would resize a picture to, first and second."""
    asked: list[tuple[int, int]] = []
    reference = processor(json.dumps(keys), "pil")
    from transformers.models.idefics3 import image_processing_pil_idefics3 as judge

    picture: Any = SimpleNamespace(shape=(3, *size))
    first = judge.get_resize_output_image_size(picture, keys["size"]["longest_edge"])
    bare: Any = SimpleNamespace(resize=lambda _, size, **__: asked.append((size.height, size.width)))
    type(reference).resize_for_vision_encoder(
        bare, SimpleNamespace(shape=(3, *first)), keys["max_image_size"]["longest_edge"]
    )
    return [first, *asked]


@FREELY
@given(height=SIDES, width=SIDES, name=st.sampled_from(sorted(PUBLISHED)))
def test_the_plan_foretells_the_references_own_count(
    height: int, width: int, name: str, tmp_path: Path
) -> None:
    keys = PUBLISHED[name]
    patches, _, _ = processor(json.dumps(keys), "pil").get_number_of_image_patches(height, width)
    plan = recipe_of(keys, tmp_path, "pil").plan((height, width))
    # The reference counts 0 where nothing is cut.
    assert plan.shapes["pixel_values"][0] == max(1, patches)
    assert plan.tokens is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = CONFIGS["edges that are no multiples"]
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


@pytest.mark.parametrize("make", [idefics, smol])
@pytest.mark.parametrize("size", [(50, 50), (97, 300), (300, 97), (240, 240)])
def test_tokens_are_those_that_the_whole_processor_writes(
    make: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    import transformers

    keys = make(**edges(240 if size != (50, 50) else 60, 60))
    whole = getattr(transformers, keys["image_processor_type"].replace("Image", ""))
    inputs = reference_outputs({**keys, "return_row_col_info": True}, "pil", KINDS["ramp"](*size))
    bare: Any = SimpleNamespace(
        fake_image_token="<fake>",
        image_token="<image>",
        image_seq_len=64,
        global_image_tag="<global>",
        global_image_token="<global>",
    )
    written = whole.replace_image_token(bare, {name: inputs[name].tolist() for name in ("rows", "cols")}, 0)
    recipe = recipe_of(keys, tmp_path, "pil", processor_config={"image_seq_len": 64})
    info = ImageInfo("png", 1, size[1], size[0], "RGB")
    assert recipe.tokens(info) == len(re.findall(r"<\w+>|\n\n|\n", written))


def test_tokens_of_another_whole_processor_are_not_known(tmp_path: Path) -> None:
    whole = {"processor_class": "ColModernVBertProcessor", "image_seq_len": 64}
    assert recipe_of(idefics(), tmp_path, "pil", processor_config=whole).plan((50, 50)).tokens is None


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (idefics(size={"shortest_edge": 224}), "size"),
        (idefics(size=1456), "size"),
        (idefics(size={"height": 10_000, "width": 10_000}), "size"),
        (idefics(max_image_size=364), "max_image_size"),
        (idefics(max_image_size={"longest_edge": 0}), "max_image_size"),
        (idefics(do_image_splitting=1), "do_image_splitting"),
        (idefics(do_center_crop=True), "do_center_crop"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(keys: Keys, key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"`{key}`"):
        recipe_of(keys, tmp_path, "pil")


def test_a_strip_is_cut_within_bounds(tmp_path: Path) -> None:
    info = ImageInfo("png", 1, 65_000, 1, "RGB")
    recipe = recipe_of(idefics(), tmp_path, "pil")
    assert recipe.plan((1, 65_000)).shapes["pixel_values"] == (5, 3, 364, 364)
    endless = recipe_of(idefics(do_resize=False, max_image_size={"longest_edge": 1200}), tmp_path, "pil")
    with pytest.raises(MediaTooLarge, match="aspect ratio"):
        endless.output_bytes(info, {spec.name: spec.data_type for spec in recipe.outputs})


def test_a_side_that_rounds_away_is_one_square(tmp_path: Path) -> None:
    keys = idefics(**edges(49, 49))
    assert 49 * (1 / 49) < 1, "which the reference rounds down"
    assert recipe_of(keys, tmp_path, "pil").plan((4900, 1)).resized == ((49, 1), (49, 49))
