"""Llama 4 (Llama4ImageProcessor): onto a canvas of square tiles, aspect ratio kept, and the whole picture beside it.

Of all canvases of 1 to max_patches tiles, the one that a picture fits with the least scale of at least 1 (the largest
with resize_to_max_canvas), else with the largest scale; of equal ones the smallest. The picture is scaled to fit,
rounded down; without resize_to_max_canvas a side grows to one tile's at most. It lies in the upper left corner, on
black, and the canvas is cut into tiles; where there are several, the whole picture follows, stretched to one tile.
The reference compares scales as float32, and so does this.

Keys: `size` (of a tile, square), `max_patches`, `resize_to_max_canvas`; the rest as image.py says. `do_resize` must be
true, and do_rescale with do_normalize, as it refuses to normalise bytes. Rescaling and normalising together are done
in BF16, each step rounded to it.

Outputs: `pixel_values`, BF16 [tiles, 3, side, side] (float32 where they are only rescaled), the whole picture last;
`aspect_ratios`, int64 [1, 2]: tiles down and across. It exists for the torchvision backend alone.

Tokens, with everything that stands for the picture in the prompt: of each tile
(side // patch_size) ** 2 // round(1 / pixel_shuffle_ratio ** 2), numbers of processor_config.json; where there are
several, one behind each; and three of the picture itself. Not known without that file.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.image import (
    BILINEAR,
    HALF,
    PIXELS,
    Defaults,
    ImageRecipe,
    Plan,
    common,
    torchvision_only,
)
from sidecar.recipes.tiles import Grid, check_canvas, grids, in_tiles, on_canvas, square_tile
from sidecar.stages.pack import bfloat16_bits
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.normalize import Normalization, Table, value_table
from sidecar.stages.transform.resize import FILTERS

_RATIOS: Final = "aspect_ratios"
_KEYS: Final = frozenset({"default_to_square", "max_patches", "resize_to_max_canvas"})
_DEFAULTS: Final = Defaults(BILINEAR, HALF, HALF, True)
_TILE: Final = (336, 336)
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasPlan(Plan):
    """`target` is the size after the resize, laid on a canvas of `grid` tiles."""

    target: Size
    grid: Grid


@dataclass(frozen=True, slots=True)
class CanvasRecipe(ImageRecipe[CanvasPlan]):
    """The processor's numbers; see Recipe. `chunk`: tokens of one tile, None where not known."""

    side: int
    most: int
    fills: bool
    chunk: int | None

    @property
    def geometry(self) -> tuple[str, ...]:
        name, tile = FILTERS[self.common.resample], f"{self.side}x{self.side}"
        aim, bound = (
            ("largest", "") if self.fills else ("least", f", enlarged to a side of {self.side} at most")
        )
        return (
            f"canvas of 1 to {self.most} tiles of {tile}: {aim} scale of at least 1, else the largest below",
            f"resize ({name}) to fit it, aspect ratio kept{bound}; zeros below and to the right; cut",
            f"more than one tile: add the whole picture, resized to {tile}, aspect ratio not kept",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (-1, 3, self.side, self.side), rows=True),
            TensorSpec(_RATIOS, DataType.INT64, (1, 2), rows=True),
        )

    @property
    def pixel_type(self) -> DataType:
        """BF16 is what the reference leaves where it normalises."""
        how = self.common.normalization
        if how.mean is not None:
            return DataType.BF16
        return DataType.FP32 if how.changes_bytes else DataType.UINT8

    @property
    def table(self) -> Table:
        how = self.common.normalization
        return value_table(how, self.common.reference) if how.mean is None else _bfloat16_table(how)

    def plan(self, size: Size) -> CanvasPlan:
        grid = best_canvas(size, self.side, self.most, fills=self.fills)
        several = grid != (1, 1)
        tiles = grid[0] * grid[1] + several
        target = fitted(size, (grid[0] * self.side, grid[1] * self.side), None if self.fills else self.side)
        return CanvasPlan(
            shapes={PIXELS: (tiles, 3, self.side, self.side), _RATIOS: (1, 2)},
            tokens=None if self.chunk is None else tiles * (self.chunk + 1) + 2,
            resized=(target, (self.side, self.side)) if several else (target,),
            target=target,
            grid=grid,
        )

    def shape(self, frames: Pixels, plan: CanvasPlan) -> tuple[Shaped, ...]:
        canvas = self.resized(frames, plan.target, on_canvas(plan.target, plan.grid, self.side))
        parts = [Looked(in_tiles(canvas, plan.grid), 2, self.table)]
        if plan.grid != (1, 1):
            whole = self.resized(frames, (self.side, self.side))
            parts.append(Looked(whole.transpose(2, 0, 1), 0, self.table))
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], tuple(parts)),
            Shaped.of(_RATIOS, np.array([plan.grid], np.int64)),
        )


def best_canvas(size: Size, side: int, most: int, *, fills: bool) -> Grid:
    """The canvas with the least (`fills`: largest) scale of at least 1, else the largest; then the smallest."""
    height, width = np.float32(size[0]), np.float32(size[1])
    scales = {
        grid: min(np.float32(grid[0] * side) / height, np.float32(grid[1] * side) / width)
        for grid in grids(1, most)
    }
    enlarging = [scale for scale in scales.values() if scale >= 1]
    best = (max if fills else min)(enlarging) if enlarging else max(scales.values())
    return min((grid for grid, scale in scales.items() if scale == best), key=lambda grid: grid[0] * grid[1])


def fitted(size: Size, canvas: Size, side: int | None) -> Size:
    """(height, width) of a picture on its canvas; a side grows up to `side` at most, None for no such bound.

    Where the canvas is the bound of a side, the reference divides in float32, where the picture or a tile is,
    in float64; where the two meet, they are compared and multiplied in float32.
    """
    bounds = [
        (canvas[axis], True) if side is None or canvas[axis] < max(size[axis], side)
        else (max(size[axis], side), False)
        for axis in (0, 1)
    ]  # fmt: skip
    down, across = (
        np.float32(bound) / np.float32(length) if single else bound / length
        for (bound, single), length in zip(bounds, size, strict=True)
    )
    (height, _), (width, _) = bounds
    if across < down:
        return max(1, min(math.floor(size[0] * across), height)), width
    return height, max(1, min(math.floor(size[1] * down), width))


@functools.lru_cache(maxsize=16)
def _bfloat16_table(how: Normalization) -> Table:
    """float32 [3, 256], read-only: bytes times the scale, minus the mean, over the deviation, each rounded to BF16."""
    values = _rounded(np.arange(256, dtype=np.float32) * np.float32(how.scale or 1))
    mean, std = (_rounded(np.array(numbers, np.float32))[:, np.newaxis] for numbers in (how.mean, how.std))
    table = _rounded(_rounded(values - mean) / std)
    table.flags.writeable = False
    return table


def _rounded(values: _Floats) -> _Floats:
    """The nearest BF16 to each float32."""
    return (bfloat16_bits(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def llama4_recipe(config: Config, processor: str, choice: Choice) -> CanvasRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("do_resize", True, (True,))
    if not config.flag("do_rescale", True):
        config.one_of("do_normalize", True, (False,))
    shared = common(config, processor, _DEFAULTS, torchvision_only(config, processor, choice), _KEYS)
    side, most = square_tile(config, _TILE), config.integer("max_patches", 16)
    check_canvas(config, "max_patches", (side, side), most)
    return CanvasRecipe(
        shared,
        side=side,
        most=most,
        fills=config.flag("resize_to_max_canvas", False),
        chunk=None if config.processor is None else _chunk(config.processor, side),
    )


def _chunk(config: Config, side: int) -> int:
    ratio = config.positive("pixel_shuffle_ratio", 0.5)
    if not 1 / side <= ratio <= 1:
        raise config.refusal("pixel_shuffle_ratio", f"from 1/{side} to 1")
    return (side // config.integer("patch_size", 14)) ** 2 // max(1, round(1 / ratio**2))


PROCESSORS: Final = {"Llama4ImageProcessor": llama4_recipe}
"""The classes of this family by name, each with what makes its recipe."""
