"""Fast mode: JPEGs decoded smaller, in the same shapes, near the exact pixels; all else to the bit."""

from __future__ import annotations

import functools
import io
import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sidecar.errors import RecipeError
from sidecar.media import DataType, ImageInfo, Pixels, Source
from sidecar.recipes.image import PIXELS
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.pillow import AVAILABLE
from sidecar.stages.probe import probe
from sidecar.stages.transform.geometry import ShortestEdge, resized
from testbed.parity import CHECKPOINTS

Load = Callable[..., Recipe]

CLIP: Mapping[str, Any] = {"image_processor_type": "CLIPImageProcessor", "size": 45, "crop_size": 40}
UNCROPPED = {**CLIP, "do_center_crop": False}
SIGLIP: Mapping[str, Any] = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 60, "width": 41},
}
BOUNDED = {**UNCROPPED, "size": {"shortest_edge": 45, "longest_edge": 55}}
WITHIN = {**UNCROPPED, "size": {"max_height": 50, "max_width": 61}}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(keys: Mapping[str, Any], **choice: Any) -> Recipe:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(keys), encoding="utf-8")
        return load_recipe(tmp_path, **choice)

    return loaded


@functools.cache
def photo(width: int, height: int) -> Image.Image:
    """Smooth shapes of many sizes with edges between them, the same on every run."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    planes: npt.NDArray[np.float64] = np.zeros((height, width, 3))
    for cycles in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(3):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            wave = np.sin(2 * np.pi * cycles * (rows * np.sin(angle) + columns * np.cos(angle)) + phase)
            planes += np.float64(wave[..., np.newaxis]) * rng.normal(size=3) / cycles
    planes += np.where((rows - 0.4) ** 2 + (columns - 0.3) ** 2 < 0.05, 1.0, 0.0)[..., np.newaxis]
    scaled = 255 * (planes - planes.min()) / np.ptp(planes)
    return Image.fromarray(scaled.astype(np.uint8))


def saved(picture: Image.Image, orientation: int = 1, kind: str = "JPEG") -> Source:
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    picture.save(file, kind, exif=exif)
    return Source(file.getvalue())


def made(
    recipe: Recipe, source: Source, data_type: DataType = DataType.UINT8
) -> tuple[int, npt.NDArray[Any]]:
    """How much smaller the picture was decoded, and the tensor; its size is the one foretold."""
    info = probe(source)
    assert isinstance(info, ImageInfo)
    frames = decode(source, info, recipe.decode_target(info))
    assert isinstance(frames, Pixels)
    (tensor,) = pack(recipe.transform(frames), {PIXELS: data_type})
    assert recipe.output_bytes(info, {PIXELS: data_type}) == {PIXELS: tensor.nbytes}
    return frames.shrink, np.frombuffer(tensor.data, data_type.storage).reshape(tensor.shape)


def decibels(one: npt.NDArray[Any], other: npt.NDArray[Any], peak: float = 255.0) -> float:
    difference = one.astype(np.float64) - other.astype(np.float64)
    return float(10 * np.log10(peak**2 / np.mean(np.square(difference))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("keys", [CLIP, UNCROPPED, SIGLIP, BOUNDED, WITHIN], ids=str)
def test_shapes_stay_and_pixels_are_near(load: Load, keys: dict[str, Any], orientation: int) -> None:
    """Sizes whose last pixels are shared by 2, 4 and 8, or not; the slope shows whether geometry slips."""
    exact, fast = load(keys), load(keys, fast=True)
    for size in ((1001, 817), (817, 1001), (960, 800), (401, 399), (257, 249)):
        source = saved(photo(*size), orientation)
        whole, expected = made(exact, source)
        shrink, found = made(fast, source)
        assert (whole, expected.shape) == (1, found.shape)
        assert shrink > 1
        assert decibels(found, expected) > 44, (size, shrink)


@pytest.mark.parametrize(
    ("size", "edge", "width", "not_width"), [((403, 301), 33, 44, 43), ((799, 361), 45, 99, 98)]
)
def test_geometry_goes_by_the_whole_picture(
    load: Load, size: tuple[int, int], edge: int, width: int, not_width: int
) -> None:
    """Where the smaller picture's own sides would lead to another width."""
    source = saved(photo(*size))
    shrink, found = made(load({**UNCROPPED, "size": edge}, fast=True), source)
    smaller = (math.ceil(size[1] / shrink), math.ceil(size[0] / shrink))
    assert (edge, not_width) == resized(smaller, ShortestEdge(edge))
    assert (3, edge, width) == found.shape


@pytest.mark.parametrize("reference", ["pil", "torchvision"])
@pytest.mark.parametrize("resample", [1, 2, 3])
def test_either_reference_and_every_smooth_filter_is_near(load: Load, resample: int, reference: str) -> None:
    keys, source = {**CLIP, "resample": resample}, saved(photo(801, 603), 6)
    _, expected = made(load(keys, reference=reference), source)
    shrink, found = made(load(keys, reference=reference, fast=True), source)
    assert shrink == 8
    assert decibels(found, expected) > 44


@pytest.mark.parametrize("data_type", [DataType.FP32, DataType.FP16])
def test_normalised_values_are_as_near_as_bytes(load: Load, data_type: DataType) -> None:
    source = saved(photo(801, 603), 5)
    _, expected = made(load(CLIP), source, data_type)
    _, found = made(load(CLIP, fast=True), source, data_type)
    assert decibels(found, expected, peak=float(np.ptp(expected.astype(np.float64)))) > 44


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_keep_every_bit(load: Load, kind: str, orientation: int) -> None:
    if kind.lower() not in AVAILABLE:
        pytest.skip(f"the Pillow at hand was built without {kind}")
    source = saved(photo(501, 403), orientation, kind)
    shrink, found = made(load(CLIP, fast=True), source)
    assert shrink == 1
    assert np.array_equal(made(load(CLIP), source)[1], found)


def test_pictures_of_less_than_2_4_times_the_target_keep_every_bit(load: Load) -> None:
    source = saved(photo(178, 105))
    shrink, found = made(load(CLIP, fast=True), source)
    assert shrink == 1
    assert np.array_equal(made(load(CLIP), source)[1], found)


@pytest.mark.parametrize(
    ("keys", "least_size"),
    [
        (CLIP, (54, 108)),
        (SIGLIP, (72, 50)),
        (BOUNDED, (34, 66)),
        (WITHIN, (36, 74)),
        ({**CLIP, "do_resize": False}, None),
        ({**CLIP, "resample": 0}, None),
        ({**CLIP, "resample": 4}, None),
    ],
    ids=str,
)
def test_decode_is_told_six_fifths_of_the_target_where_a_smooth_filter_follows(
    load: Load, keys: dict[str, Any], least_size: tuple[int, int] | None
) -> None:
    recipe = load(keys, fast=True)
    info = ImageInfo("jpeg", 1, 2000, 1000, "RGB")
    assert least_size == recipe.decode_target(info).least_size
    assert recipe.exact == (least_size is None)
    assert load(keys).decode_target(info).least_size is None
    assert load(keys).exact


def test_a_fast_recipe_says_so(load: Load) -> None:
    recipe = load(CLIP, fast=True)
    first, *_, last = recipe.steps
    assert first == (
        "JPEGs decoded at 1/2, 1/4 or 1/8 where that leaves 6/5 of the target: about 44 dB from the exact path"
    )
    assert last == "as transformers' pil backend does, to the bit, but for JPEGs decoded smaller"
    assert recipe == pickle.loads(pickle.dumps(recipe))


def test_exact_speaks_of_the_resize_alone(load: Load) -> None:
    assert not load(CLIP, fast=True, exact=True).exact
    hamming = {**CLIP, "resample": 5}
    with pytest.raises(RecipeError, match="its filter hamming cannot be had"):
        load(hamming, reference="torchvision", fast=True, exact=True)
    assert (
        load(hamming, reference="torchvision", fast=True, exact=False)
        .steps[-1]
        .startswith("as transformers' torchvision backend does, not to the bit")
    )


def test_sound_ignores_it() -> None:
    for name in ("whisper-tiny", "wav2vec2-base-960h"):
        assert load_recipe(CHECKPOINTS / name) == load_recipe(CHECKPOINTS / name, fast=True)
