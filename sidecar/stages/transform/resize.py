"""Pixels to pixels, with the bits of a stated reference.

transformers resizes with one of two engines, by the backend that runs. Both are separable filters in fixed
point with bytes between the passes, and their bits differ:

"pil": Pillow 13. Weights of 22 bits. The pass across comes first, unless the height loses more than twice
the pixels that the width loses (Pillow 12 and older never turn the passes round).
"torchvision": torch's antialiased resize of uint8 on processors with AVX2, which pillow-simd 12 matches.
Weights of 16 bits, with as many of them behind the point as the largest weight leaves room for; always
across first. It has lanczos, bilinear and bicubic.

In both, an axis that keeps its length is not filtered. The kernels follow either to the bit, whatever
libraries are installed; tests hold them to Pillow, pillow-simd and torch themselves. Where a crop follows,
only what it takes is computed, with the bits of resizing everything first.

A view that mirrors or transposes is read as its pixels lie, and only the result is turned: that has the bits
of turning first, because the sums are of integers, whatever their order, so that weights may be mirrored and
passes exchanged. It spares a pass over the whole picture.

It never decides which reference to follow, and never resizes to something it would then have to hide.
"""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sidecar.errors import MediaTooLarge
from sidecar.stages import kernels
from sidecar.stages.kernels import Axis
from sidecar.stages.transform.geometry import Crop, Reference, Size
from sidecar.stages.transform.turn import together, turn_of

# PIL's numbers for its filters, which the models' files use.
FILTERS: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
TAPS: Final = {0: 0, 1: 6, 2: 2, 3: 4, 4: 1, 5: 2}
"""How many samples a filter spans, by the same numbers, where a side keeps its length; each time it becomes smaller,
by as much more. Nearest adds none up."""
_NEAREST: Final = 0
# torchvision has no box or hamming for tensors, and its nearest is another than PIL's.
_FILTERS_OF_TORCHVISION: Final = frozenset({1, 2, 3})

# A picture before its crop, at Pillow's 4 bytes a pixel. The shorter edge is set by the model, so the
# longer one grows with the aspect ratio: 256 MiB admit 1:1300 at an edge of 224, and stop the 1x65000
# picture of a few hundred bytes that would ask for 13 GB. What lies outside the crop is not computed, but
# its weights are, and a picture of that shape has no use.
MOST_RESIZED_BYTES: Final = 256 << 20

# Axes longer than this are worked out each time: an Axis takes some 16 bytes a sample, and 128 are remembered.
_LONGEST_REMEMBERED: Final = 1 << 14

_Pixels = npt.NDArray[np.uint8]


def references_met(resample: int) -> frozenset[Reference]:
    """The references that have this filter (a key of FILTERS), and whose bits it is given with."""
    return frozenset(("pil", "torchvision") if resample in _FILTERS_OF_TORCHVISION else ("pil",))


def resize(  # noqa: PLR0917 - what a resize is given by
    pixels: _Pixels,
    target: Size,
    resample: int,
    reference: Reference,
    crop: Crop | None = None,
    extent: tuple[float, float] | None = None,
) -> _Pixels:
    """`pixels` resized to `target` (height, width) with a key of FILTERS, then cropped.

    Takes and gives uint8 [height, width, 3]; the result may be a view of `pixels`, and read-only. A filter
    that the reference lacks is PIL's. `extent` is how many of the rows and columns the picture takes up, where
    the last of them, as they lie in memory, are the picture's only in part. Raises MediaTooLarge where the
    resized picture, before its crop, would pass MOST_RESIZED_BYTES, or what is kept between the passes.
    """
    check_resized_size(target)
    extent = extent or (float(pixels.shape[0]), float(pixels.shape[1]))
    if crop is None:
        return _resized(pixels, extent, target, resample, reference, range(target[0]), range(target[1]))
    rows, columns = (range(span.start, span.stop) for span in (crop.rows, crop.columns))
    cut = _resized(pixels, extent, target, resample, reference, rows, columns)
    return padded(cut, crop) if crop.is_padded else cut


def cropped(pixels: _Pixels, crop: Crop) -> _Pixels:
    """The crop alone, for models that do not resize: a view where nothing is padded or turned."""
    rows, columns = crop.rows, crop.columns
    cut = together(pixels[rows.start : rows.stop, columns.start : columns.stop])
    return padded(cut, crop) if crop.is_padded else cut


def padded(cut: _Pixels, crop: Crop) -> _Pixels:
    """`cut`, the pixels that the crop takes, in its place on zeros."""
    canvas = np.zeros((*crop.size, cut.shape[2]), np.uint8)
    top, left = crop.rows.offset, crop.columns.offset
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return canvas


def check_resized_size(target: Size) -> None:
    """Raises MediaTooLarge where a picture of `target` (height, width) would pass MOST_RESIZED_BYTES."""
    _check_bytes(target, target[0] * target[1] * 4)


def _check_bytes(target: Size, found: int) -> None:
    if found > MOST_RESIZED_BYTES:
        raise MediaTooLarge(
            f"the picture's aspect ratio is too extreme: resized to {target[1]}x{target[0]} (width x height) it"
            f" would take {found} bytes, and {MOST_RESIZED_BYTES} are allowed, whatever the settings; crop it"
            " before sending",
            limit="resized_bytes (fixed)",
            allowed=MOST_RESIZED_BYTES,
            found=found,
        )


def _resized(  # noqa: PLR0917 - what a resize is given by
    pixels: _Pixels,
    extent: tuple[float, float],
    target: Size,
    resample: int,
    reference: Reference,
    rows: range,
    columns: range,
) -> _Pixels:
    """The pixels [rows, columns) of the whole resized picture."""
    height, width, channels = pixels.shape
    if extent == target:
        return together(pixels[rows.start : rows.stop, columns.start : columns.stop])
    turn, order = turn_of(pixels), _order(extent, target, reference)
    down = _side(height, extent[0], target[0], rows, backwards=turn.up)
    across = _side(width, extent[1], target[1], columns, backwards=turn.left)
    if turn.swapped:
        down, across, order = across, down, _SWAPPED[order]
    lying = np.ascontiguousarray(turn.lying(pixels))
    shape = (len(down.outputs), len(across.outputs), channels)
    # One behind the other, and room for what the kernel writes past the end.
    out = np.empty(math.prod(shape) + kernels.SLACK, np.uint8)
    source, stride = kernels.sealed(lying.reshape(-1)), lying.shape[1] * channels
    if resample == _NEAREST:
        kernels.pick(source, stride, _nearest(down), _nearest(across), out)
    else:
        _check_bytes(
            target, max(kernels.weights_bytes(side.source, side.target, resample) for side in (down, across))
        )
        short = reference == "torchvision" and resample in _FILTERS_OF_TORCHVISION
        axes = _axis(across, resample, short=short), _axis(down, resample, short=short)
        kept = kernels.kept_bytes(order, *axes)
        if turn.swapped and kept > MOST_RESIZED_BYTES:
            return _resized(together(pixels), extent, target, resample, reference, rows, columns)
        _check_bytes(target, kept)
        kernels.resize(source, stride, order, *axes, out)
    return together(turn.view(out[: math.prod(shape)].reshape(shape)))


class _Side(NamedTuple):
    """An axis as it lies in memory: the first `extent` of its samples become `target`, of which `outputs` are made.

    `mirrored`: its weights are to be those of the axis from its other end, to the bit.
    """

    source: int
    extent: float
    target: int
    outputs: range
    mirrored: bool


def _side(source: int, extent: float, target: int, wanted: range, *, backwards: bool) -> _Side:
    """The axis that makes the outputs `wanted`, counted from its end where that is to be read `backwards`."""
    outputs = range(target - wanted.stop, target - wanted.start) if backwards else wanted
    # A last sample that is only in part the picture's is the last one that lies there; no reference has any.
    return _Side(source, extent, target, outputs, backwards and extent == source)


def _order(extent: tuple[float, float], target: Size, reference: Reference) -> int:
    """The passes that are needed, in the reference's order; at least one is."""
    lost_rows, lost_columns = extent[0] - target[0], extent[1] - target[1]
    if not lost_rows:
        return kernels.ACROSS
    if not lost_columns:
        return kernels.DOWN
    if reference == "pil" and lost_rows > 2 * max(0, lost_columns):
        return kernels.DOWN_ACROSS
    return kernels.ACROSS_DOWN


# The same passes over pixels that lie transposed.
_SWAPPED: Final = {
    kernels.ACROSS: kernels.DOWN,
    kernels.DOWN: kernels.ACROSS,
    kernels.ACROSS_DOWN: kernels.DOWN_ACROSS,
    kernels.DOWN_ACROSS: kernels.ACROSS_DOWN,
}


def _axis(side: _Side, resample: int, *, short: bool) -> Axis:
    source, extent, target, outputs, mirrored = side
    if extent == target:
        return kernels.cut_axis(outputs.start, outputs.stop)
    find = _remembered_axis if max(source, target) <= _LONGEST_REMEMBERED else kernels.resized_axis
    return find(source, extent, target, outputs.start, outputs.stop, resample, short, mirrored)


_remembered_axis = functools.lru_cache(maxsize=128)(kernels.resized_axis)


def _nearest(side: _Side) -> npt.NDArray[np.int64]:
    """Which sample each output takes, in PIL's arithmetic: the scale is added up in float64."""
    steps = np.full(side.target, side.extent / side.target)
    steps[0] *= 0.5
    found = np.cumsum(steps).astype(np.int64)
    # Where the sum of many steps ends beyond the last sample, PIL leaves black.
    found[found >= side.source] = -1
    if side.mirrored:
        found = np.where(found < 0, -1, side.source - 1 - found)[::-1]
    return np.ascontiguousarray(found[side.outputs.start : side.outputs.stop])
