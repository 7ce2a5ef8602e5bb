"""Gemma 3's squares, and its pan and scan, beside transformers' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia, RecipeError
from sidecar.media import ImageInfo
from sidecar.recipes.images.gemma3 import PanAndScan
from testbed.parity import Keys, processor
from testbed.pictures import KINDS
from tests.recipes.images.judge import BACKENDS, agree, agree_on, every, recipe_of, skip_without, small

WHOLE: Keys = {"processor_class": "Gemma3Processor", "image_seq_length": 256}


def gemma3(**keys: object) -> Keys:
    return {"image_processor_type": "Gemma3ImageProcessor", **keys}


def panned(side: int, most: int, ratio: float, **keys: object) -> Keys:
    return gemma3(
        do_pan_and_scan=True,
        pan_and_scan_min_crop_size=side,
        pan_and_scan_max_num_crops=most,
        pan_and_scan_min_ratio_to_activate=ratio,
        **keys,
    )


# As the checkpoints publish them: with keys that are null.
GEMMA_3 = gemma3(
    do_convert_rgb=None,
    do_pan_and_scan=None,
    pan_and_scan_min_crop_size=None,
    size={"height": 896, "width": 896},
    resample=2,
)
PUBLISHED = {
    "gemma-3-4b-it": GEMMA_3,
    "gemma-3-4b-it with pan and scan": panned(256, 4, 1.2, size={"height": 896, "width": 896}),
}
CONFIGS = {
    "pan and scan": panned(256, 4, 1.2),
    "many small pieces": panned(16, 7, 1.0, size=[50, 61], image_mean=[0.1, 0.2, 0.3]),
    "one piece": panned(5, 1, 1.5, size=40, do_normalize=False),
    "class defaults": gemma3(),
    "no resize": gemma3(do_resize=False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_and_crops_are_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(CONFIGS[name], backend, tmp_path, small())


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_picture_is_bit_equal_at_the_published_size(name: str, backend: str, tmp_path: Path) -> None:
    agree_on(PUBLISHED[name], backend, tmp_path, every())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_size_is_bit_equal(name: str, backend: str, tmp_path: Path) -> None:
    skip_without(backend)
    agree(recipe_of(PUBLISHED[name], tmp_path, backend), PUBLISHED[name], backend, KINDS["noise"](333, 777))


@settings(max_examples=300)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    side=st.integers(1, 600),
    most=st.integers(1, 9),
    ratio=st.sampled_from([0.5, 1.0, 1.2, 2.5]),
)
def test_pieces_are_the_references(height: int, width: int, side: int, most: int, ratio: float) -> None:
    judge = processor(json.dumps(gemma3()), "pil")
    rows = np.broadcast_to(np.arange(height)[:, np.newaxis], (1, height, width))
    columns = np.broadcast_to(np.arange(width), (1, height, width))
    expected = [judge.pan_and_scan(axis, side, most, ratio) for axis in (rows, columns)]
    assume(all(piece.size for piece in expected[0]))
    found = PanAndScan(side, most, ratio).pieces((height, width))
    assert len(found) == len(expected[0])
    for (down, across), row, column in zip(found, *expected, strict=True):
        assert (down.start, down.stop) == (row[0, 0, 0], row[0, -1, -1] + 1)
        assert (across.start, across.stop) == (column[0, 0, 0], column[0, -1, -1] + 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), pans=st.booleans())
def test_tokens_are_those_that_the_whole_processor_puts_into_the_prompt(
    height: int, width: int, pans: bool, tmp_path: Path
) -> None:
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    keys = {**GEMMA_3, "do_pan_and_scan": pans}
    recipe = recipe_of(keys, tmp_path, "pil", processor_config=WHOLE)
    judge = Gemma3Processor.__new__(Gemma3Processor)
    judge.full_image_sequence = "[" + "<image>" * 256 + "]"
    crops = PanAndScan(256, 4, 1.2).pieces((height, width)) if pans else ()
    text = judge.replace_image_token({"num_crops": [len(crops)]}, 0)
    assert recipe.tokens(ImageInfo("png", 1, width, height, "RGB")) == text.count("<image>")


def test_tokens_are_unknown_where_no_file_names_the_whole_processor(tmp_path: Path) -> None:
    assert recipe_of(gemma3(), tmp_path, "pil").tokens(ImageInfo("png", 1, 64, 64, "RGB")) is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(2, 300), width=st.integers(2, 300), kind=st.sampled_from(sorted(KINDS)))
def test_pictures_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    skip_without("pil")
    keys = panned(20, 5, 1.1, size=70)
    agree(recipe_of(keys, tmp_path, "pil"), keys, "pil", KINDS[kind](height, width))


def test_a_picture_that_is_cut_is_not_decoded_smaller(tmp_path: Path) -> None:
    recipe = recipe_of(panned(256, 4, 1.2), tmp_path, "pil")
    assert recipe.plan((1000, 1000)).resized == ((224, 224),)
    assert recipe.plan((1000, 2000)).resized == ()


def test_a_picture_too_small_for_its_pieces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptMedia, match="too small to be cut into 4 pieces"):
        recipe_of(panned(1, 4, 1.2), tmp_path, "pil").plan((1, 5))


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("size", gemma3(size={"shortest_edge": 224})),
        ("size", gemma3(size=100_000)),
        ("pan_and_scan_max_num_crops", panned(256, 0, 1.2)),
        ("pan_and_scan_min_ratio_to_activate", panned(256, 4, 0.0)),
        ("do_resize", panned(256, 4, 1.2, do_resize=False)),
        ("do_pan_and_scan", gemma3(do_pan_and_scan=1)),
        ("do_center_crop", gemma3(do_center_crop=True)),
    ],
)
def test_values_that_cannot_be_followed_are_refused(key: str, keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_of(keys, tmp_path, "pil")
