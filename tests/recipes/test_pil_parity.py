"""Ours beside transformers' PIL backend: the same bytes after resize and crop, the same floats after that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.media import DataType, Pixels
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.pack import pack
from testbed.parity import CONFIGS, PIL_CONFIGS, Keys, pil_processor, reference_pixels, reference_values
from testbed.pictures import KINDS, pictures

# The judge resizes with the PIL at hand, which is the reference only where it is this one.
pytestmark = pytest.mark.skipif(
    PIL.__version__ != "13.0.0", reason=f"PIL {PIL.__version__} does not give the bits of the Pillow 13 wheel"
)

ALL = {**CONFIGS, **PIL_CONFIGS}


def loaded(keys: Keys, directory: Path) -> Recipe:
    (directory / "preprocessor_config.json").write_text(json.dumps(keys), encoding="utf-8")
    return load_recipe(directory, reference="pil")


@pytest.mark.parametrize("name", ALL)
def test_pixels_after_resize_and_crop_are_bit_equal(name: str, tmp_path: Path) -> None:
    recipe, reference = loaded(ALL[name], tmp_path), pil_processor(ALL[name])
    assert recipe.exact
    for title, picture in pictures():
        (tensor,) = pack(recipe.transform(Pixels(picture)), {"pixel_values": DataType.UINT8})
        expected = reference_pixels(reference, picture)
        assert expected.shape == tensor.shape, title
        assert expected.tobytes() == bytes(tensor.data), title


@pytest.mark.parametrize("name", ALL)
def test_floats_are_bit_equal(name: str, tmp_path: Path) -> None:
    recipe, reference = loaded(ALL[name], tmp_path), pil_processor(ALL[name])
    for title, picture in pictures():
        if picture.size > 1_000_000:
            continue  # the bytes are judged above; every value of a byte occurs in the smaller ones
        (tensor,) = pack(recipe.transform(Pixels(picture)), {"pixel_values": DataType.FP32})
        values = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)
        assert np.array_equal(reference_values(reference, picture), values), title


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 400), width=st.integers(1, 400), kind=st.sampled_from(sorted(KINDS)))
def test_pixels_of_any_shape_are_bit_equal(height: int, width: int, kind: str, tmp_path: Path) -> None:
    keys, picture = CONFIGS["crop wider than the picture"], KINDS[kind](height, width)
    (tensor,) = pack(loaded(keys, tmp_path).transform(Pixels(picture)), {"pixel_values": DataType.UINT8})
    assert reference_pixels(pil_processor(keys), picture).tobytes() == bytes(tensor.data)
