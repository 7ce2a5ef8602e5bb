"""Llama 3.2 Vision (MllamaImageProcessor): onto a canvas of square tiles, aspect ratio kept, and zeros for the rest.

Of all canvases of 1 to max_image_tiles tiles, the one that a picture fits with the least scale of at least 1, else
with the largest; of equal ones the smallest. The picture is scaled to fit, rounded down, a side growing to one tile's
at most. It lies in the upper left corner, on black, and the canvas is cut into tiles; zeros stand for the tiles that
are missing to max_image_tiles.

Keys: `size` (of a tile, square), `max_image_tiles`; the rest as image.py says. `do_resize` and `do_pad` must be true.

Outputs: `pixel_values`, float32 [1, max_image_tiles, 3, side, side]; `aspect_ratio_ids`, int64 [1]: the canvas, as
its number in the order (1, 1), (1, 2) ... (2, 1) ... of (down, across), from 1 on; `aspect_ratio_mask`, int64
[1, max_image_tiles]: 1 for the canvas's tiles; `num_tiles`, int64 [1]. The ones in front are the pictures of a
prompt. Missing tiles are zeros after normalising, which no byte stands for: bytes (UINT8) only where byte 0 is 0.

Tokens: 1, as the model looks at pictures by cross-attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.media import Blank, DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.image import BILINEAR, HALF, PIXELS, Defaults, ImageRecipe, Plan, common
from sidecar.recipes.tiles import Grid, check_canvas, grids, in_tiles, on_canvas, square_tile
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_IDS: Final = "aspect_ratio_ids"
_MASK: Final = "aspect_ratio_mask"
_COUNT: Final = "num_tiles"
_KEYS: Final = frozenset({"default_to_square", "do_pad", "max_image_tiles"})
_DEFAULTS: Final = Defaults(BILINEAR, HALF, HALF, True)
_TILE: Final = (224, 224)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedPlan(Plan):
    """`target` is the size after the resize, laid on a canvas of `grid` tiles."""

    target: Size
    grid: Grid


@dataclass(frozen=True, slots=True)
class PaddedRecipe(ImageRecipe[PaddedPlan]):
    """The processor's numbers; see Recipe. `most`: tiles of every picture, missing ones among them."""

    side: int
    most: int

    @property
    def geometry(self) -> tuple[str, ...]:
        name, tile = FILTERS[self.common.resample], f"{self.side}x{self.side}"
        bound = f", enlarged to a side of {self.side} at most"
        return (
            f"canvas of 1 to {self.most} tiles of {tile}: least scale of at least 1, else the largest below",
            f"resize ({name}) to fit it, aspect ratio kept{bound}; zeros below and to the right; cut",
            f"zeros for missing tiles, {self.most} in all",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (1, self.most, 3, self.side, self.side)),
            TensorSpec(_IDS, DataType.INT64, (1,)),
            TensorSpec(_MASK, DataType.INT64, (1, self.most)),
            TensorSpec(_COUNT, DataType.INT64, (1,)),
        )

    @property
    def fills_up(self) -> bool:
        """Missing tiles are zeros."""
        return self.most > 1

    def plan(self, size: Size) -> PaddedPlan:
        grid = best_canvas(size, self.side, self.most)
        target = fitted(size, (grid[0] * self.side, grid[1] * self.side), self.side)
        return PaddedPlan(
            shapes={spec.name: spec.shape for spec in self.outputs},
            tokens=1,
            resized=(target,),
            target=target,
            grid=grid,
        )

    def shape(self, frames: Pixels, plan: PaddedPlan) -> tuple[Shaped, ...]:
        canvas = self.resized(frames, plan.target, on_canvas(plan.target, plan.grid, self.side))
        tiles = plan.grid[0] * plan.grid[1]
        missing = Blank((self.most - tiles) * 3 * self.side**2)
        mask = (np.arange(self.most) < tiles).astype(np.int64)[np.newaxis]
        return (
            Shaped(
                PIXELS, plan.shapes[PIXELS], (Looked(in_tiles(canvas, plan.grid), 2, self.table), missing)
            ),
            Shaped.of(_IDS, np.array([sorted(grids(1, self.most)).index(plan.grid) + 1], np.int64)),
            Shaped.of(_MASK, mask),
            Shaped.of(_COUNT, np.array([tiles], np.int64)),
        )


def best_canvas(size: Size, side: int, most: int) -> Grid:
    """The canvas (down, across) with the least scale of at least 1, else with the largest; then the smallest."""
    height, width = size
    scales = {
        (down, across): min(down * side / height, across * side / width) for down, across in grids(1, most)
    }
    best = min((scale for scale in scales.values() if scale >= 1), default=max(scales.values()))
    return min((grid for grid, scale in scales.items() if scale == best), key=lambda grid: grid[0] * grid[1])


def fitted(size: Size, canvas: Size, side: int) -> Size:
    """(height, width) of a picture on its canvas, each at least 1; a side grows up to `side` at most."""
    height, width = (min(max(length, side), bound) for length, bound in zip(size, canvas, strict=True))
    down, across = height / size[0], width / size[1]
    if across < down:
        return min(math.floor(size[0] * across) or 1, height), width
    return height, min(math.floor(size[1] * down) or 1, width)


def mllama_recipe(config: Config, processor: str, choice: Choice) -> PaddedRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("do_resize", True, (True,))
    config.one_of("do_pad", True, (True,))
    side, most = square_tile(config, _TILE), config.integer("max_image_tiles", 4)
    check_canvas(config, "max_image_tiles", (side, side), most)
    return PaddedRecipe(common(config, processor, _DEFAULTS, choice, _KEYS), side, most)


PROCESSORS: Final = {"MllamaImageProcessor": mllama_recipe}
"""The classes of this family by name, each with what makes its recipe."""
