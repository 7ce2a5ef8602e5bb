"""A worker gives a picture's memory back before its outputs need as much, and never what they are read from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bench.processes import Child
from sidecar.deadline import Deadline
from sidecar.media import Pixels, Source
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode.room import ROOM
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe
from sidecar.workers import worker
from sidecar.workers.worker import Job, work
from testbed.parity import FAMILY_CONFIGS
from testbed.pictures import ramp

# (height, width): multiples of 28, which Qwen2-VL leaves as they are, and others.
AS_IT_IS, OTHER = (1596, 2044), (1600, 2050)
MIB = 1 << 20


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What came of each wish to give memory back."""
    found: list[bool] = []
    monkeypatch.setattr(worker, "give_back", lambda size: found.append(ROOM.give_back(size)))
    return found


def recipe_of(directory: Path, name: str, **keys: object) -> Recipe:
    (directory / "preprocessor_config.json").write_text(json.dumps({**FAMILY_CONFIGS[name], **keys}))
    return load_recipe(directory)


def assert_prepared(recipe: Recipe, size: tuple[int, int], **options: Any) -> None:
    """That the worker makes of a JPEG what the recipe makes of its pixels in memory of their own."""
    file = io.BytesIO()
    Image.fromarray(ramp(*size)).save(file, "JPEG", **options)
    source = Source(file.getvalue())
    info = probe(source)
    types = {spec.name: spec.data_type for spec in recipe.outputs}
    done = work(Job(source, info, recipe, recipe.decode_target(info), types, Deadline(None)))
    assert done.problem is None
    pixels: npt.NDArray[np.uint8] = np.asarray(Image.open(file).convert("RGB"))
    if options:
        pixels = pixels[::-1, ::-1]
    expected = pack(recipe.transform(Pixels(pixels)), types)
    assert [bytes(each.data) for each in done.tensors] == [bytes(each.data) for each in expected]


def test_a_resized_picture_is_given_back_before_pack(given_back: list[bool], tmp_path: Path) -> None:
    for _ in range(2):
        assert_prepared(recipe_of(tmp_path, "Qwen2VLImageProcessor"), OTHER)
    assert given_back == [True, True]


def test_a_picture_that_the_outputs_look_at_is_kept(given_back: list[bool], tmp_path: Path) -> None:
    upside_down = Image.Exif()
    upside_down[0x112] = 3
    recipe = recipe_of(tmp_path, "Qwen2VLImageProcessor")
    assert_prepared(recipe, AS_IT_IS)
    assert_prepared(recipe_of(tmp_path, "Qwen2VLImageProcessor", do_resize=False), AS_IT_IS)
    assert given_back == [False, False]
    # Turned, it is laid out anew, and only the copy is looked at.
    assert_prepared(recipe, AS_IT_IS, exif=upside_down)
    assert given_back[2:] == [True]


def test_a_small_models_picture_stays_for_the_next_one(given_back: list[bool], tmp_path: Path) -> None:
    assert_prepared(recipe_of(tmp_path, "CLIPImageProcessor"), OTHER)
    assert given_back == [False]


def test_a_picture_on_a_canvas_is_given_back_too(given_back: list[bool], tmp_path: Path) -> None:
    assert_prepared(recipe_of(tmp_path, "LlavaOnevisionImageProcessor"), OTHER)
    assert given_back == [True]


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["Qwen2VLImageProcessor", "Kimi_K25ImageProcessor", "LlavaOnevisionImageProcessor"]
)
@pytest.mark.parametrize("size", [(2448, 3264), (3000, 4000)])
def test_a_picture_takes_itself_its_outputs_and_8_mib_at_most(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    large, warm = tmp_path / "large.jpg", tmp_path / "warm.jpg"
    Image.fromarray(ramp(*size)).save(large)
    Image.new("RGB", (64, 48)).save(warm)
    with Child.of("bench.preparers") as child:
        found = child.ask(ask="peak", keys=FAMILY_CONFIGS[name], path=str(large), warm=str(warm))
    assert found["peak"] <= 3 * size[0] * size[1] + found["output"] + 8 * MIB
