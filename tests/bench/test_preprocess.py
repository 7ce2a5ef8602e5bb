"""What the peers compute, against the processor whose numbers they must give."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bench.photos import photos
from bench.servers.preprocess import SIDE, prepare, summary
from testbed.parity import pil_processor, published, reference_values


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (331, 250), (224, 224)])
def test_exact_mode_is_transformers_to_a_millionth(size: tuple[int, int]) -> None:
    file = io.BytesIO()
    with Image.open(io.BytesIO(photos("640x480")[0])) as image:
        image.resize(size).save(file, "JPEG")
    with Image.open(file) as image:
        picture = np.asarray(image.convert("RGB"))
    expected = reference_values(pil_processor(published("clip-vit-base-patch32")), picture)
    found = prepare(file.getvalue(), "exact")
    assert (found.shape, found.dtype) == ((3, SIDE, SIDE), np.dtype(np.float32))
    assert np.abs(found - expected).max() <= 1e-6


def test_scaled_mode_is_near_it_and_not_it() -> None:
    data = photos("1920x1080")[0]
    off = np.abs(prepare(data, "scaled") - prepare(data, "exact"))
    # A grey level is 0.015.
    assert 0 < off.mean() < 0.03


def test_a_picture_that_is_small_already_is_not_scaled() -> None:
    data = photos("640x480")[0]
    assert np.array_equal(prepare(data, "scaled"), prepare(data, "exact"))


def test_a_summary_tells_one_tensor_from_another() -> None:
    ramp = np.arange(3 * SIDE * SIDE, dtype=np.float32).reshape(3, SIDE, SIDE)
    assert summary(ramp).shape == (17,)
    assert not np.array_equal(summary(ramp), summary(ramp[::-1]))
    assert not np.array_equal(summary(ramp), summary(ramp.transpose(0, 2, 1)))
