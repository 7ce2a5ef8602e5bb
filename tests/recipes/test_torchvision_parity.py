"""Ours beside transformers' torchvision backend, which runs on torch's own uint8 resize.

The backend itself is the judge where torch and torchvision are installed (scripts/simd.sh makes such an
environment); everywhere else its answers are, which scripts/golden.py wrote down.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.media import DataType, Pixels
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.pack import pack
from testbed.parity import CONFIGS, Keys, reference_pixels, reference_values, torchvision_processor
from testbed.pictures import KINDS, pictures
from testbed.torchvision_import import import_torchvision

GOLDEN = json.loads(Path(__file__).with_name("torchvision_pixels.json").read_text(encoding="utf-8"))["crc32"]


@pytest.fixture(scope="module")
def torchvision() -> Any:
    try:
        return import_torchvision()
    except ImportError as error:
        pytest.skip(f"{error}: scripts/simd.sh installs it")


def loaded(keys: Keys, directory: Path, *, exact: bool = True) -> Recipe:
    (directory / "preprocessor_config.json").write_text(json.dumps(keys), encoding="utf-8")
    return load_recipe(directory, reference="torchvision", exact=exact)


@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_are_those_that_the_backend_was_seen_to_give(name: str, tmp_path: Path) -> None:
    recipe = loaded(CONFIGS[name], tmp_path)
    assert recipe.exact
    found = {}
    for title, picture in pictures():
        (tensor,) = pack(recipe.transform(Pixels(picture)), {"pixel_values": DataType.UINT8})
        found[title] = f"{zlib.crc32(tensor.data):08x}"
    assert GOLDEN[name] == found


@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_after_resize_and_crop_are_bit_equal(name: str, tmp_path: Path, torchvision: Any) -> None:
    assert torchvision
    recipe, reference = loaded(CONFIGS[name], tmp_path), torchvision_processor(CONFIGS[name])
    assert reference.backend == "torchvision"
    for title, picture in pictures():
        (tensor,) = pack(recipe.transform(Pixels(picture)), {"pixel_values": DataType.UINT8})
        expected = reference_pixels(reference, picture)
        assert expected.shape == tensor.shape, title
        assert expected.tobytes() == bytes(tensor.data), title


@pytest.mark.parametrize("name", CONFIGS)
def test_floats_are_bit_equal(name: str, tmp_path: Path, torchvision: Any) -> None:
    assert torchvision
    recipe, reference = loaded(CONFIGS[name], tmp_path), torchvision_processor(CONFIGS[name])
    for title, picture in pictures():
        if picture.size > 1_000_000:
            continue  # the bytes are judged above; every value of a byte occurs in the smaller ones
        (tensor,) = pack(recipe.transform(Pixels(picture)), {"pixel_values": DataType.FP32})
        values = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)
        assert np.array_equal(reference_values(reference, picture), values), title


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 400), width=st.integers(1, 400), kind=st.sampled_from(sorted(KINDS)))
def test_pixels_of_any_shape_are_bit_equal(
    height: int, width: int, kind: str, tmp_path: Path, torchvision: Any
) -> None:
    assert torchvision
    keys, picture = CONFIGS["crop wider than the picture"], KINDS[kind](height, width)
    (tensor,) = pack(loaded(keys, tmp_path).transform(Pixels(picture)), {"pixel_values": DataType.UINT8})
    assert reference_pixels(torchvision_processor(keys), picture).tobytes() == bytes(tensor.data)
