"""The pictures that are measured with."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from bench.photos import COUNT, SIZES, photos


def test_they_are_different_and_the_same_on_every_call() -> None:
    first = photos("640x480")
    again = photos.__wrapped__("640x480")
    assert (len(first), len(set(first))) == (COUNT, COUNT)
    assert first == again


@pytest.mark.parametrize(("name", "low", "high"), [("640x480", 60, 100), ("1920x1080", 320, 480)])
def test_they_weigh_what_photographs_of_their_size_weigh(name: str, low: int, high: int) -> None:
    for data in photos(name):
        assert low * 1000 < len(data) < high * 1000


@pytest.mark.full
def test_the_largest_are_of_twelve_megapixels_and_some_megabytes() -> None:
    (data,) = photos("4000x3000", 1)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == SIZES["4000x3000"]
    assert 2_400_000 < len(data) < 4_000_000


def test_they_are_ordinary_jpegs_with_half_the_colour() -> None:
    with Image.open(io.BytesIO(photos("640x480")[0])) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (640, 480))
        sampling = [layer[1:3] for layer in image.layer]  # type: ignore[attr-defined] # JPEG's own
    assert sampling == [(2, 2), (1, 1), (1, 1)]
