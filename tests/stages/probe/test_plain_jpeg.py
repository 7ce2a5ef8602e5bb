"""Facts of a JPEG without metadata, found by the walk alone, are those that Pillow finds."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from sidecar.errors import CorruptMedia, MediaError
from sidecar.stages import pillow
from sidecar.stages.probe import skeleton


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(4).integers(0, 256, (23, 37, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


KINDS = {
    "plain": jpeg(),
    "grey": jpeg("L"),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_blocks=2),
    "comment": jpeg(comment=b"said"),
}


def by_pillow(data: bytes) -> tuple[int, int, str, int, int] | None:
    """What Pillow says: width, height, mode, orientation, frames; None where it refuses."""
    try:
        with pillow.opened(data, "jpeg", "it") as image:
            frames = int(getattr(image, "n_frames", 1))
            return (*image.size, image.mode, pillow.orientation(image), frames)
    except MediaError:
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_the_walk_finds_all_that_there_is(kind: str) -> None:
    found = skeleton.walk_jpeg(KINDS[kind], "it").plain
    assert found is not None
    assert (*found, 1, 1) == by_pillow(KINDS[kind])


@pytest.mark.parametrize(
    "data",
    [
        jpeg(exif=Image.Exif()),
        jpeg(exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"),
        jpeg("CMYK"),
        jpeg(icc_profile=b"x" * 200),
        jpeg(xmp=b"<x/>"),
    ],
)
def test_what_has_metadata_or_other_colours_is_left_to_pillow(data: bytes) -> None:
    found = skeleton.walk_jpeg(data, "it").plain
    assert found is None or (*found, 1, 1) == by_pillow(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_header_has_pillow_s_facts_wherever_pillow_takes_it(kind: str) -> None:
    rng = random.Random(kind)
    compared = 0
    for _ in range(2000):
        data = bytearray(KINDS[kind])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(2, min(len(data), 700))] = rng.choice(
                [rng.randrange(256), 0xFF, 0xC0, 0xDA, 0xE1]
            )
        try:
            found = skeleton.walk_jpeg(bytes(data), "it").plain
        except CorruptMedia:
            continue
        said = by_pillow(bytes(data))
        if found is not None and said is not None:
            compared += 1
            assert (*found, 1, 1) == said, data[:700].hex()
    assert compared > 500


@pytest.mark.parametrize("exif", [b"", Image.Exif().tobytes()])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_walk_tells_how_colours_are_sampled_and_whether_passes_follow(
    progressive: bool, subsampling: str, exif: bytes
) -> None:
    data = jpeg(progressive=progressive, subsampling=subsampling, exif=exif)
    found = skeleton.walk_jpeg(data, "it")
    assert (found.progressive, found.subsampling) == (progressive, subsampling)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((0x41, 0x11, 0x11), "4:1:1"),
        ((0x12, 0x11, 0x11), "4:4:0"),
        ((0x22, 0x22, 0x22), "4:4:4"),
        ((0x22, 0x12, 0x12), "4:2:2"),
        ((0x22, 0x21, 0x11), ""),
        ((0x33, 0x11, 0x11), ""),
        ((0x00, 0x00, 0x00), ""),
    ],
)
def test_sampling_that_no_encoder_writes_is_not_named(factors: tuple[int, ...], expected: str) -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    for place, factor in enumerate(factors):
        data[frame + 11 + 3 * place] = factor
    assert skeleton.walk_jpeg(bytes(data), "it").subsampling == expected


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_without_two_colours_has_no_sampling_of_them(mode: str) -> None:
    assert skeleton.walk_jpeg(jpeg(mode), "it").subsampling == ""
