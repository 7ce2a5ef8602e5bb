"""JPEGs decoded past Pillow have Pillow's bits, or are left to Pillow; smaller ones are near and large enough."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from sidecar.errors import CorruptMedia, MediaError
from sidecar.media import SIDEWAYS, DecodeTarget, ImageInfo, Pixels, Source
from sidecar.stages.decode import decode
from sidecar.stages.decode.image import _by_pillow
from sidecar.stages.decode.jpeg import decode_jpeg
from sidecar.stages.probe import probe
from tests import corpus

_Array = npt.NDArray[np.uint8]

_SAMPLINGS = ("444", "422", "420", "440", "411", "Gray")
_SIZES = ((1, 1), (1, 9), (2, 3), (5, 4), (15, 17), (16, 16), (31, 33), (8, 250), (97, 61))


def _picture(height: int, width: int, seed: int = 0) -> _Array:
    """Like a photograph: coarse shapes are strong and fine ones weak, with a little noise."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(1, 8):
        grid = rng.normal(size=(2 + height * 2**octave // 512, 2 + width * 2**octave // 512, 3))
        planes = (Image.fromarray(grid[..., channel].astype(np.float32)) for channel in range(3))
        smooth = [np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
        total += np.stack(smooth, -1) / 2**octave
    total += rng.normal(size=total.shape) * 0.01
    scaled: _Array = (255 * (total - total.min()) / max(1e-9, float(np.ptp(total)))).astype(np.uint8)
    return scaled


def _saved(pixels: _Array, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def _turned(pixels: _Array, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return _saved(pixels, exif=exif, **options)


def _sampled(pixels: _Array, sampling: str, quality: int = 85) -> bytes:
    colours = "GRAY" if sampling == "Gray" else "RGB"
    stored = np.ascontiguousarray(pixels[..., :1] if sampling == "Gray" else pixels)
    return bytes(simplejpeg.encode_jpeg(stored, quality, colours, sampling))


def _facts(data: bytes) -> ImageInfo:
    info = probe(Source(data))
    assert isinstance(info, ImageInfo)
    return info


def _directly(data: bytes, least_size: tuple[int, int] | None = None) -> _Array | None:
    found = decode_jpeg(data, _facts(data), least_size)
    return None if found is None else found.array


def _assert_pillows(data: bytes) -> None:
    found = _directly(data)
    assert found is not None
    assert found.dtype == np.uint8
    expected = _by_pillow(Source(data), _facts(data), DecodeTarget()).array
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sampling", _SAMPLINGS)
def test_every_sampling_and_size_has_pillows_bits(sampling: str) -> None:
    for height, width in _SIZES:
        for quality in (20, 90):
            _assert_pillows(_sampled(_picture(height, width), sampling, quality))


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"progressive": True, "subsampling": 0},
        {"restart_marker_blocks": 2},
        {"optimize": True, "quality": 100},
        {"icc_profile": bytes(70_000), "comment": b"\xff\xd9"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_way_of_coding_has_pillows_bits(options: dict[str, Any]) -> None:
    for height, width in _SIZES:
        _assert_pillows(_saved(_picture(height, width), **options))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(("height", "width"), [(1, 7), (33, 50), (300, 521)])
def test_every_orientation_has_pillows_bits(orientation: int, height: int, width: int) -> None:
    _assert_pillows(_turned(_picture(height, width), orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_takes_no_memory(orientation: int) -> None:
    found = _directly(_turned(_picture(33, 50), orientation))
    assert found is not None
    assert found.base is not None
    assert found.nbytes == np.asarray(found.base).nbytes


def _several() -> bytes:
    """One file of two pictures, as phones write them."""
    pixels = _picture(40, 60)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "MPO", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    return file.getvalue()


def test_of_several_pictures_the_first_is_the_one() -> None:
    assert _facts(_several()).frames == 2
    _assert_pillows(_several())
    _assert_pillows(_saved(_picture(40, 60)) + _saved(_picture(30, 30)))


def _marked(data: bytes, marker: bytes, at: int, value: int) -> bytes:
    """`data` with one byte changed, counted from the first such marker."""
    place = data.index(marker) + at
    return data[:place] + bytes([value]) + data[place + 1 :]


_PLAIN = _saved(_picture(40, 60), quality=90)

_LEFT_TO_PILLOW: dict[str, Callable[[], bytes]] = {
    "CMYK": lambda: corpus.image("jpeg_cmyk.jpg"),
    "YCCK": lambda: corpus.image("jpeg_ycck.jpg"),
    "RGB": lambda: _saved(_picture(40, 60), keep_rgb=True),
    "an unknown transform": lambda: _PLAIN[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07" + _PLAIN[2 + 18 :],
    "a sampling without a name": lambda: _marked(_PLAIN, b"\xff\xc0", 11, 0x31),
    "a sampling that the library has no name for": lambda: _marked(_PLAIN, b"\xff\xc0", 11, 0x14),
    "cut short": lambda: _PLAIN[:-300],
    "no end": lambda: _PLAIN[:-2],
    "bytes between segments": lambda: _PLAIN[:20] + b"\0\0\0" + _PLAIN[20:],
    "a wrong restart": lambda: _marked(
        _saved(_picture(40, 60), restart_marker_blocks=1), b"\xff\xd1", 1, 0xD5
    ),
    "a second frame": lambda: (
        _PLAIN[: _PLAIN.index(b"\xff\xda")]
        + _PLAIN[_PLAIN.index(b"\xff\xc0") : _PLAIN.index(b"\xff\xda")]
        + _PLAIN[_PLAIN.index(b"\xff\xda") :]
    ),
    "a second scan": lambda: _PLAIN[:-2] + _PLAIN[_PLAIN.index(b"\xff\xda") :],
    "lossless": lambda: _marked(_PLAIN, b"\xff\xc0", 1, 0xC3),
    "lossless grey": lambda: _marked(corpus.image("jpeg_gray.jpg"), b"\xff\xc0", 1, 0xC3),
}


def _outcome(decoded: Callable[[Source, ImageInfo, DecodeTarget], Any], data: bytes, **wanted: Any) -> Any:
    """Pixels, or what was said of them."""
    try:
        return decoded(Source(data), _facts(data), DecodeTarget(**wanted)).array
    except MediaError as error:
        return type(error), error.message


@pytest.mark.parametrize("name", _LEFT_TO_PILLOW)
def test_all_else_is_left_to_pillow(name: str) -> None:
    data = _LEFT_TO_PILLOW[name]()
    for least_size in (None, (1, 1)):
        assert _directly(data, least_size) is None
        np.testing.assert_equal(_outcome(decode, data, least_size=least_size), _outcome(_by_pillow, data))


def test_a_size_that_is_not_probes_is_refused_before_memory_is_taken() -> None:
    huge = _PLAIN.replace(b"\xff\xc0\0\x11\x08\0\x28\0\x3c", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff")
    assert huge != _PLAIN
    assert decode_jpeg(huge, _facts(_PLAIN), None) is None
    with pytest.raises(CorruptMedia, match="says 60×40 pixels in its header and 65535×65535 further on"):
        decode(Source(huge), _facts(_PLAIN), DecodeTarget())


def test_a_kind_of_colour_that_is_not_probes_is_left_to_pillow() -> None:
    grey = corpus.image("jpeg_gray.jpg")
    colour = corpus.image("jpeg_444.jpg")
    assert decode_jpeg(grey, _facts(colour), None) is None
    assert decode_jpeg(colour, _facts(grey), None) is None


# Smaller than stored.

_PHOTO = _picture(601, 803)


@pytest.mark.parametrize(
    ("least_size", "size"),
    [
        (None, (601, 803)),
        ((602, 1), (601, 803)),
        ((302, 1), (601, 803)),
        ((301, 402), (301, 402)),
        ((300, 300), (301, 402)),
        ((151, 201), (151, 201)),
        ((151, 202), (301, 402)),
        ((76, 101), (76, 101)),
        ((1, 1), (76, 101)),
    ],
)
def test_the_smallest_size_that_is_enough_is_left(
    least_size: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    for orientation in (1, 3, 6, 7):
        data = _turned(_PHOTO, orientation)
        flip = orientation in SIDEWAYS
        least = least_size[::-1] if least_size is not None and flip else least_size
        found = decode(Source(data), _facts(data), DecodeTarget(least_size=least))
        assert isinstance(found, Pixels)
        assert found.array.shape == (*(size[::-1] if flip else size), 3)
        assert found.size == ((803, 601) if flip else (601, 803))
        assert found.extent == tuple(length / found.shrink for length in found.size)
        assert found.array.shape[:2] == tuple(math.ceil(length) for length in found.extent)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"grey": True}], ids=str)
@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_a_smaller_picture_is_the_same_picture(options: dict[str, Any], orientation: int) -> None:
    pixels = _PHOTO[..., 0] if options.get("grey") else _PHOTO
    data = _turned(pixels, orientation, quality=85, **{k: v for k, v in options.items() if k != "grey"})
    exact = Image.fromarray(_outcome(decode, data))
    for side in (37, 75, 150):
        # Twice the size that a model wants, in pixels that it would be resized from.
        shape = (side, side * exact.width // exact.height)
        least_size = (2 * shape[0], 2 * shape[1])
        small = Image.fromarray(_outcome(decode, data, least_size=least_size))
        assert small.height < exact.height
        assert _psnr(small, exact, shape[::-1]) > 40


def _psnr(one: Image.Image, other: Image.Image, size: tuple[int, int]) -> float:
    """Decibels between two pictures, both resized to (width, height)."""
    resized = (np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float64) for image in (one, other))
    return float(10 * np.log10(255**2 / np.mean(np.square(next(resized) - next(resized)))))


def test_pictures_below_a_block_stay_whole() -> None:
    for height, width in ((1, 1), (3, 3), (7, 5)):
        data = _saved(_picture(height, width))
        assert _outcome(decode, data, least_size=(1, 1)).shape == (height, width, 3)
    for height, width in ((8, 1), (3, 9), (9, 9)):
        found = _outcome(decode, _saved(_picture(height, width)), least_size=(1, 1))
        assert found.shape == (-(-height // 8), -(-width // 8), 3)


def test_damage_is_told_of_a_smaller_picture_too() -> None:
    with pytest.raises(CorruptMedia, match="truncated"):
        decode(Source(_PLAIN[:-300]), _facts(_PLAIN), DecodeTarget(least_size=(5, 5)))


def test_other_formats_ignore_the_size() -> None:
    source = corpus.source("png_rgb.png")
    assert decode(source, probe(source), DecodeTarget(least_size=(8, 8))).array.shape == (64, 96, 3)


def test_the_whole_pictures_memory_must_be_allowed() -> None:
    with pytest.raises(CorruptMedia, match="decodes to 7200 bytes and 7199 are allowed"):
        decode(Source(_PLAIN), _facts(_PLAIN), DecodeTarget(max_decoded_bytes=7199, least_size=(5, 5)))


# Memory.


def test_pictures_that_are_held_are_never_written_over() -> None:
    pixels = np.zeros((3000, 3800, 3), np.uint8)
    pictures = [_saved(pixels + np.uint8(shade)) for shade in (40, 90, 140)]
    held = [_outcome(decode, data) for data in pictures]
    for shade, array in zip((40, 90, 140), held, strict=True):
        assert (array.min(), array.max()) == (shade, shade)
    at = held[0].ctypes.data
    held.clear()
    del array
    assert _outcome(decode, pictures[2]).ctypes.data == at


# Mutations: the same pixels or the same words as by Pillow alone.


def _any_jpeg(rng: random.Random) -> bytes:
    height, width = rng.choice(_SIZES)
    pixels = _picture(height, width, rng.randrange(100))
    if rng.random() < 0.5:
        return _sampled(pixels, rng.choice(_SAMPLINGS), rng.choice((10, 80, 95)))
    options: dict[str, Any] = {"quality": rng.choice((10, 80, 95)), "progressive": rng.random() < 0.5}
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = rng.choice((1, 3))
    return _turned(pixels, rng.randrange(10), **options)


_MARKERS = (0x00, 0x01, 0x10, 0xC0, 0xC4, 0xD0, 0xD3, 0xD8, 0xD9, 0xDA, 0xDC, 0xE0, 0xFE, 0xFF)


def _mutated(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at, some = rng.randrange(len(data) + 1), rng.choice((1, 2, 9, 40))
        cut = rng.randrange(len(data) + 1)
        data = rng.choice(
            (
                data[:at],
                data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
                data[: at % 700] + bytes([rng.choice((0, 1, 0xFF))]) + data[at % 700 + 1 :],
                data[:at] + rng.randbytes(some) + data[at:],
                data[:at] + data[at + some :],
                data[:at] + bytes((0xFF, rng.choice(_MARKERS))) + data[at:],
                data[:at] + data[cut : cut + some] + data[at:],
                data + _any_jpeg(rng),
            )
        )
    return data


def _differ(seeds: range) -> int:
    """How many of the mutated files were decoded past Pillow; the others must fare the same all the more."""
    direct = 0
    for seed in seeds:
        rng = random.Random(seed)
        data = _mutated(_any_jpeg(rng), rng)
        try:
            info = probe(Source(data))
        except MediaError:
            continue
        if not isinstance(info, ImageInfo) or info.format != "jpeg" or info.width * info.height > 1 << 20:
            continue
        np.testing.assert_equal(_outcome(decode, data), _outcome(_by_pillow, data), err_msg=f"seed {seed}")
        small = _outcome(decode, data, least_size=(rng.randrange(1, 40), rng.randrange(1, 40)))
        assert isinstance(small, tuple) == isinstance(_outcome(_by_pillow, data), tuple), f"seed {seed}"
        direct += _directly(data) is not None
    return direct


def test_mutated_files_fare_as_by_pillow_alone() -> None:
    assert _differ(range(1000)) > 200


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_many_mutated_files_fare_as_by_pillow_alone() -> None:
    assert _differ(range(10_000, 60_000)) > 10_000
