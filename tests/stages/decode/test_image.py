"""Pixels are those of transformers' load_image, to the bit, or one of two errors."""

from __future__ import annotations

import base64
import dataclasses
import io
import sys
import warnings
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from sidecar.errors import CorruptMedia, UnsupportedMedia
from sidecar.media import DecodeTarget, ImageInfo, Pixels, Source
from sidecar.stages import pillow
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from tests import corpus


def _decoded(source: Source, target: DecodeTarget | None = None) -> npt.NDArray[np.uint8]:
    frames = decode(source, probe(source), target or DecodeTarget())
    assert isinstance(frames, Pixels)
    return frames.array


def _reference(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


@pytest.mark.parametrize("name", [name for name in corpus.PICTURES if name != "jpeg_exif_damaged.jpg"])
def test_pixels_are_those_of_exif_transpose_and_convert(name: str) -> None:
    array = _decoded(corpus.source(name))
    assert (array.dtype.name, array.ndim) == ("uint8", 3)
    np.testing.assert_array_equal(array, np.asarray(_reference(corpus.image(name))))


@pytest.mark.parametrize("name", corpus.PICTURES)
def test_the_shape_is_the_one_that_probe_foretold(name: str) -> None:
    info = probe(corpus.source(name))
    assert isinstance(info, ImageInfo)
    width, height = info.upright_size
    assert _decoded(corpus.source(name)).shape == (height, width, 3)


def test_pixels_are_those_of_transformers_load_image() -> None:
    from transformers.image_utils import load_image

    for name in corpus.PICTURES:
        if name != "jpeg_exif_damaged.jpg":
            expected = np.asarray(load_image(base64.b64encode(corpus.image(name)).decode()))
            np.testing.assert_array_equal(_decoded(corpus.source(name)), expected, err_msg=name)


@pytest.mark.parametrize("name", corpus.PICTURES)
def test_with_white_transparency_they_are_those_of_convert_to_rgb_after_it(name: str) -> None:
    from transformers.image_transforms import convert_to_rgb

    array = _decoded(corpus.source(name), DecodeTarget(white_transparency=True))
    if name == "jpeg_exif_damaged.jpg":
        pytest.skip("the reference raises on it")
    np.testing.assert_array_equal(array, convert_to_rgb(_reference(corpus.image(name)), return_numpy=True))


@pytest.mark.parametrize("name", ["gif_key.gif", "png_palette_key.png", "png_rgb_key.png"])
def test_the_colour_declared_transparent_becomes_white_only_when_asked(name: str) -> None:
    plain = _decoded(corpus.source(name))
    white = _decoded(corpus.source(name), DecodeTarget(white_transparency=True))
    changed = (plain != white).any(axis=-1)
    assert changed.any()
    assert (white[changed] == 255).all()


@pytest.mark.parametrize("colour", [(5, 6, 7), (0x105, 0x206, 0x307)], ids=["8 bits", "16 bits"])
def test_white_is_painted_in_every_block_of_rows(colour: tuple[int, int, int]) -> None:
    from transformers.image_transforms import convert_to_rgb

    pixels = np.random.default_rng(0).integers(5, 8, (700, 800, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", transparency=colour)
    array = _decoded(Source(file.getvalue()), DecodeTarget(white_transparency=True))
    np.testing.assert_array_equal(array, convert_to_rgb(_reference(file.getvalue()), return_numpy=True))
    assert (array == 255).any()


def test_a_damaged_exif_tag_leaves_the_picture_as_it_is_stored() -> None:
    data = corpus.image("jpeg_exif_damaged.jpg")
    np.testing.assert_array_equal(_decoded(Source(data)), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    "name",
    [n for n in corpus.CORRUPT if n.rsplit(".", 1)[1] in {"jpg", "png", "webp", "gif", "bmp", "tif", "avif"}],
)
def test_a_broken_picture_is_corrupt_media(name: str) -> None:
    with pytest.raises(CorruptMedia) as refusal:
        _decoded(corpus.source(name), DecodeTarget(max_decoded_bytes=1 << 24))
    assert refusal.value.message.startswith(name)


def test_a_header_that_changed_since_probe_is_corrupt_media() -> None:
    info = probe(corpus.source("png_rgb.png"))
    with pytest.raises(CorruptMedia, match="says 96×64 pixels in its header and 48×32 further on"):
        decode(corpus.source("jpeg_exif_1.jpg"), dataclasses.replace(info, format="jpeg"), DecodeTarget())


def test_no_more_memory_is_taken_than_the_target_allows() -> None:
    with pytest.raises(CorruptMedia, match="decodes to 192000 bytes and 191999 are allowed"):
        _decoded(corpus.source("jpeg_420.jpg"), DecodeTarget(max_decoded_bytes=191_999))
    assert _decoded(corpus.source("jpeg_420.jpg"), DecodeTarget(max_decoded_bytes=192_000)).size == 192_000


def test_a_format_that_pillow_was_built_without_names_what_to_install() -> None:
    source = corpus.source("avif.avif")
    info = probe(source)
    with (
        mock.patch.object(pillow, "AVAILABLE", ("jpeg",)),
        pytest.raises(UnsupportedMedia, match="install a Pillow wheel with avif support"),
    ):
        decode(source, info, DecodeTarget())


def test_answers_do_not_depend_on_the_filters_of_warnings() -> None:
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            for name in corpus.PICTURES:
                _decoded(corpus.source(name))


def test_pillow_keeps_its_own_switches_where_we_put_them() -> None:
    modules: list[Any] = [sys.modules["PIL.Image"], sys.modules["PIL.ImageFile"]]
    assert (modules[0].MAX_IMAGE_PIXELS, modules[1].LOAD_TRUNCATED_IMAGES) == (None, False)
