"""MiniCPM-V 4.6 and MiniCPM-OCR: a small whole picture, then slices of a large one, as strips of patches (NaViT).

A picture of more than scale_resolution ** 2 pixels is sliced: into as many slices as it has that area, or one
more or fewer, at most max_slice_nums, rows by columns nearest to its aspect ratio on a log scale. Slices are of
one size: of a slice's aspect ratio, about scale_resolution ** 2 pixels, and multiples of the patches that become
one token a side; the picture is resized once, to all of them. In front of them comes the whole picture, brought
to such a size itself; also where it is smaller, unless `small_image_upsize` is "never".
Each picture is then rows of patches laid end to end, channel by channel and row of a patch by row.

Keys: `max_slice_nums`, `scale_resolution`, `patch_size`, `slice_mode`; `downsample_mode`, "16x" or "4x": how many
patches become a token; MiniCPM-OCR's `small_image_upsize`, whose "adaptive" goes by what a picture shows, and is
refused; the rest as image.py says. `do_resize` must be true. There is no `size`; `use_image_id` is about the text.

Outputs: `pixel_values`, float32 [3, patch_size, patches * patch_size], the whole picture's patches and then the
slices', which other pictures would follow along the last axis; `target_sizes`, int32 [1 + slices, 2]: patches
down and across; `grids`, int64 [2]: rows and columns of slices, 0 where there are none;
`num_patches_per_image`, int64 []: 1 + slices.

Tokens: patches / 16, or / 4, of the whole and of each slice; the markers around them and the picture's number are
other tokens. MiniCPM-OCR exists for the torchvision backend alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.image import BICUBIC, HALF, PIXELS, Defaults, ImageRecipe, Plan, common, torchvision_only
from sidecar.recipes.tiles import MOST_TILES
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS, MOST_RESIZED_BYTES

_TARGETS: Final = "target_sizes"
_GRIDS: Final = "grids"
_COUNT: Final = "num_patches_per_image"
_KEYS: Final = frozenset({
    "downsample_mode", "max_slice_nums", "patch_size", "scale_resolution", "slice_mode", "use_image_id",
})  # fmt: skip
_UPSIZE: Final = "small_image_upsize"
_DEFAULTS: Final = Defaults(BICUBIC, HALF, HALF, True)
_MERGED: Final = {"4x": 2, "16x": 4}
"""How many patches a side become one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlan(Plan):
    """`whole` is the size of the whole picture after its resize, and `sliced` that of all the slices together,
    (height, width) in pixels; `grid` are its rows and columns of slices, None for no slices.
    """

    whole: Size
    sliced: Size
    grid: Size | None


@dataclass(frozen=True, slots=True)
class SliceRecipe(ImageRecipe[SlicePlan]):
    """The processor's numbers; see Recipe.

    `edge` is the side of a square of a slice's area, `most` the number of slices, 1 for none; `merged` patches a
    side become a token; `upsizes`: small pictures are enlarged.
    """

    patch: int
    edge: int
    most: int
    merged: int
    upsizes: bool

    @property
    def geometry(self) -> tuple[str, ...]:
        name, factor = FILTERS[self.common.resample], self.patch * self.merged
        size = f"about {self.edge}x{self.edge} pixels, multiples of {factor} a side"
        smaller = "" if self.upsizes else ", smaller pictures not enlarged"
        slices = f"resize ({name}) larger pictures and cut them into up to {self.most} slices of {size}"
        return (
            f"resize ({name}) the whole to {size}{smaller}",
            *((slices,) if self.most > 1 else ()),
            f"cut into patches of {self.patch}x{self.patch}, beside each other in a row",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (3, self.patch, -1)),
            TensorSpec(_TARGETS, DataType.INT32, (-1, 2), rows=True),
            TensorSpec(_GRIDS, DataType.INT64, (2,)),
            TensorSpec(_COUNT, DataType.INT64, ()),
        )

    def plan(self, size: Size) -> SlicePlan:
        grid = slice_grid(size, self.most, self.edge)
        # What is sliced is larger than one slice in any case.
        whole = self._brought(size, enlarged=grid is None and self.upsizes)
        sliced, slices = (0, 0), 0
        if grid is not None:
            rows, columns = grid
            down, across = _multiple(size[0], rows), _multiple(size[1], columns)
            height, width = self._brought((down / rows, across / columns), enlarged=True)
            sliced, slices = (height * rows, width * columns), rows * columns
        patches = (math.prod(whole) + math.prod(sliced)) // self.patch**2
        return SlicePlan(
            shapes={
                PIXELS: (3, self.patch, patches * self.patch),
                _TARGETS: (1 + slices, 2),
                _GRIDS: (2,),
                _COUNT: (),
            },
            tokens=patches // self.merged**2,
            resized=(whole,) if grid is None else (whole, sliced),
            whole=whole,
            sliced=sliced,
            grid=grid,
        )

    def _brought(self, size: tuple[float, float], *, enlarged: bool) -> Size:
        """The size for a picture or slice of (height, width), truncated and rounded as the reference does."""
        height, width = size
        if enlarged or height * width > self.edge**2:
            ratio = width / height
            height = int(self.edge / math.sqrt(ratio))
            width = int(height * ratio)
        factor = self.patch * self.merged
        return _multiple(height, factor), _multiple(width, factor)

    def shape(self, frames: Pixels, plan: SlicePlan) -> tuple[Shaped, ...]:
        rows, columns = plan.grid or (0, 0)
        strips = [self._strips(self.resized(frames, plan.whole), (1, 1))]
        targets = [(plan.whole[0] // self.patch, plan.whole[1] // self.patch)]
        if plan.grid is not None:
            strips.append(self._strips(self.resized(frames, plan.sliced), plan.grid))
            down, across = plan.sliced[0] // rows, plan.sliced[1] // columns
            targets += [(down // self.patch, across // self.patch)] * (rows * columns)
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], tuple(self._parts(strips))),
            Shaped.of(_TARGETS, np.array(targets, np.int32)),
            Shaped.of(_GRIDS, np.array([rows, columns], np.int64)),
            Shaped.of(_COUNT, np.array(len(targets), np.int64)),
        )

    def _strips(self, pixels: npt.NDArray[np.uint8], grid: Size) -> npt.NDArray[np.uint8]:
        """[channel, row of a patch, slice down, slice across, patch down, patch across, column of a patch]."""
        (height, width, _), (rows, columns), p = pixels.shape, grid, self.patch
        cut = pixels.reshape(rows, height // rows // p, p, columns, width // columns // p, p, 3)
        return cut.transpose(6, 2, 0, 3, 1, 4, 5)

    def _parts(self, strips: list[npt.NDArray[np.uint8]]) -> Iterator[Looked]:
        """The pictures beside each other: of each channel and row of a patch, one picture's and then the next's."""
        for channel in range(3):
            for row in range(self.patch):
                for strip in strips:
                    yield Looked(strip[channel : channel + 1, row], 0, self.table[channel : channel + 1])


def _multiple(length: float, factor: int) -> int:
    """The multiple nearest to a length, at least one; Python's round goes to the even neighbour on ties."""
    return max(round(length / factor) * factor, factor)


def slice_grid(size: Size, most: int, edge: int) -> Size | None:
    """(rows, columns) of slices of about `edge` x `edge` pixels, at most `most`; None where one holds all."""
    height, width = size
    count = min(math.ceil(width * height / (edge * edge)), most)
    if count <= 1:
        return None
    ratio = math.log(width / height)
    grids = [
        (rows, slices // rows)
        for slices in (count - 1, count, count + 1)
        if 1 < slices <= most
        for rows in range(1, slices + 1)
        if slices % rows == 0
    ]
    # Of equals the one with more rows, then the first.
    return min(grids, key=lambda grid: (abs(ratio - math.log(grid[1] / grid[0])), -grid[0]))


def slice_recipe(
    config: Config,
    processor: str,
    choice: Choice,
    mode: str = "16x",
    known: frozenset[str] = _KEYS,
    *,
    upsizes: bool = True,
) -> SliceRecipe:
    """The recipe that a processor's keys describe, `mode` being what its class merges by.

    Raises RecipeError; see Config and `common`.
    """
    config.one_of("do_resize", True, (True,))
    config.one_of("downsample_mode", mode, tuple(_MERGED))
    edge, most = config.integer("scale_resolution", 448), config.integer("max_slice_nums", 9, most=MOST_TILES)
    if edge * edge * most * 4 > MOST_RESIZED_BYTES:
        raise config.refusal(
            "max_slice_nums",
            f"so few that slices of {edge}x{edge} have {MOST_RESIZED_BYTES // 4} pixels in all",
        )
    return SliceRecipe(
        common(config, processor, _DEFAULTS, choice, known),
        patch=config.integer("patch_size", 14),
        edge=edge,
        most=most if config.flag("slice_mode", True) else 1,
        merged=_MERGED[str(config.raw("downsample_mode") or mode)],
        upsizes=upsizes,
    )


def ocr_recipe(config: Config, processor: str, choice: Choice) -> SliceRecipe:
    """MiniCPM-OCR's: other defaults, one backend, and small pictures may be left small."""
    config.one_of(_UPSIZE, "always", ("always", "never"))
    return slice_recipe(
        config,
        processor,
        torchvision_only(config, processor, choice),
        "4x",
        _KEYS | {_UPSIZE},
        upsizes=config.raw(_UPSIZE) != "never",
    )


PROCESSORS: Final = {
    "MiniCPMOcrImageProcessor": ocr_recipe,
    "MiniCPMV4_6ImageProcessor": slice_recipe,
}
"""The classes of this family by name, each with what makes its recipe."""
