"""Pixels to pixels, with the bits of a stated reference. The only place in transform that knows PIL.

Two libraries answer to the name PIL, and their resized bits differ: the Pillow wheel gives those of
transformers' PIL backend, pillow-simd those of its torchvision backend (torch's uint8 antialiasing code
descends from it). Which one is at hand is found out by what it computes on a known pattern, never by its
version: a build with other bits must not pass for one of the two.

It never decides which reference to follow, and never resizes to something it would then have to hide.
"""

from __future__ import annotations

import functools
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from sidecar.errors import MediaTooLarge
from sidecar.stages.transform.geometry import Crop, Reference, Size

# PIL's numbers for its filters, which the models' files use.
FILTERS: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

# A picture before its crop, at Pillow's 4 bytes a pixel. The shorter edge is set by the model, so the
# longer one grows with the aspect ratio: 256 MiB admit 1:1300 at an edge of 224, and stop the 1x65000
# picture of a few hundred bytes that would ask for 13 GB.
MOST_RESIZED_BYTES: Final = 256 << 20

_Pixels = npt.NDArray[np.uint8]

# Known answers: CRC-32 over the resized pixels of KNOWN_SIZES, one after the other. Upwards, downwards
# and in both orientations, because Pillow 13 differs from Pillow 12 in its order of passes for portraits.
# "pil" was computed by the Pillow 13.0.0 wheel; "torchvision" by torchvision 0.28.0 on torch 2.13.0 (CPU
# with AVX2 and AVX-512), and pillow-simd 12.1.1.post0 gives the same with SSE4 and with AVX2. torchvision
# has no box or hamming for tensors, and its nearest rounds otherwise than any PIL, so those have one answer.
# `scripts/golden.py known` prints this table.
KNOWN_SIZES: Final[tuple[tuple[Size, Size], ...]] = (
    ((97, 61), (29, 23)),
    ((61, 97), (23, 29)),
    ((97, 61), (40, 224)),
    ((61, 97), (224, 40)),
    ((480, 31), (20, 64)),
    ((31, 480), (64, 20)),
)
_KNOWN_ANSWERS: Final[dict[int, dict[Reference, int]]] = {
    0: {"pil": 0x62D786A6},
    1: {"pil": 0x3E00A374, "torchvision": 0x4F5E5AC8},
    2: {"pil": 0x3232328E, "torchvision": 0x05209DF9},
    3: {"pil": 0x02C913D6, "torchvision": 0x8B420571},
    4: {"pil": 0x703F9DEA},
    5: {"pil": 0x680481DD},
}


@functools.cache
def references_met(resample: int) -> frozenset[Reference]:
    """The references whose bits the PIL at hand gives with this filter (a key of FILTERS)."""
    found = known_answer(resample)
    return frozenset(name for name, answer in _KNOWN_ANSWERS[resample].items() if answer == found)


def known_answer(resample: int) -> int:
    """CRC-32 of what the PIL at hand makes of the known pattern with this filter."""
    crc = 0
    for size, target in KNOWN_SIZES:
        crc = zlib.crc32(_resize(Image.fromarray(known_pattern(size)), target, resample).tobytes(), crc)
    return crc


def known_pattern(size: Size) -> _Pixels:
    """Noise that needs no generator: the middle bits of a multiplicative hash (Knuth's 2654435761)."""
    index = np.arange(size[0] * size[1] * 3, dtype=np.uint64)
    return (
        ((index * np.uint64(2654435761) >> np.uint64(11)) & np.uint64(255)).astype(np.uint8).reshape(*size, 3)
    )


def resize(pixels: _Pixels, target: Size, resample: int, crop: Crop | None = None) -> _Pixels:
    """`pixels` resized to `target` (height, width) with a key of FILTERS, then cropped.

    Takes and gives uint8 [height, width, 3]; the result may be read-only. Raises MediaTooLarge where the
    resized picture, before its crop, would pass MOST_RESIZED_BYTES.
    """
    check_resized_size(target)
    image = _resize(Image.fromarray(pixels), target, resample)
    if crop is None:
        return np.asarray(image)
    rows, columns = crop.rows, crop.columns
    cut = np.asarray(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
    return padded(cut, crop) if crop.is_padded else cut


def cropped(pixels: _Pixels, crop: Crop) -> _Pixels:
    """The crop alone, for models that do not resize: a view where nothing is padded."""
    rows, columns = crop.rows, crop.columns
    cut = pixels[rows.start : rows.stop, columns.start : columns.stop]
    return padded(cut, crop) if crop.is_padded else cut


def padded(cut: _Pixels, crop: Crop) -> _Pixels:
    """`cut`, the pixels that the crop takes, in its place on zeros."""
    canvas = np.zeros((*crop.size, cut.shape[2]), np.uint8)
    top, left = crop.rows.offset, crop.columns.offset
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return canvas


def check_resized_size(target: Size) -> None:
    """Raises MediaTooLarge where a picture of `target` (height, width) would pass MOST_RESIZED_BYTES."""
    found = target[0] * target[1] * 4
    if found > MOST_RESIZED_BYTES:
        raise MediaTooLarge(
            f"the picture's aspect ratio is too extreme: resized to {target[1]}x{target[0]} (width x height) it"
            f" would take {found} bytes, and {MOST_RESIZED_BYTES} are allowed, whatever the settings; crop it"
            " before sending",
            limit="resized_bytes (fixed)",
            allowed=MOST_RESIZED_BYTES,
            found=found,
        )


def _resize(image: Image.Image, target: Size, resample: int) -> Image.Image:
    # PIL itself returns the picture as it is where the size does not change, as both references do.
    return image.resize((target[1], target[0]), Image.Resampling(resample))
