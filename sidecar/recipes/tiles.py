"""What recipes that cut a picture into tiles, or lay it on a canvas of tiles, share.

Grids are (tiles down, tiles across), sizes (height, width) in pixels. Nothing here chooses a grid.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from sidecar.recipes.config import Config, is_count
from sidecar.stages.transform.geometry import Crop, Size, Span
from sidecar.stages.transform.resize import MOST_RESIZED_BYTES

Grid = tuple[int, int]
"""Tiles (down, across)."""
MOST_TILES = 1000
"""That a picture may be cut into; models take up to some forty. Every grid of so many is looked at for a picture."""


def in_tiles(pixels: npt.NDArray[np.uint8], grid: Grid) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3] as a view [down, across, 3, height of a tile, width of a tile]."""
    (height, width, _), (down, across) = pixels.shape, grid
    return pixels.reshape(down, height // down, across, width // across, 3).transpose(0, 2, 4, 1, 3)


@functools.lru_cache(maxsize=16)
def grids(least: int, most: int) -> tuple[Grid, ...]:
    """All grids of `least` to `most` tiles, fewer tiles before more, narrower before wider."""
    found = [
        (down, across)
        for across in range(1, most + 1)
        for down in range(1, most // across + 1)
        if down * across >= least
    ]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def on_canvas(size: Size, grid: Grid, side: int) -> Crop:
    """A picture of `size` in the upper left corner of `grid` tiles, zeros around it."""
    return Crop((grid[0] * side, grid[1] * side), Span(0, size[0], 0), Span(0, size[1], 0))


def both_sides(config: Config, key: str, default: Size) -> Size:
    """(height, width) of a key: a number for both sides, [height, width] or {height, width}."""
    match config.raw(key):
        case None:
            return default
        case int(side) if is_count(side) and config.flag("default_to_square", True):
            return side, side
        case [height, width] if is_count(height) and is_count(width):
            return height, width
        case {"height": height, "width": width, **other} if (
            not other and is_count(height) and is_count(width)
        ):
            return height, width
    raise config.refusal(key, "a whole number, [height, width] or {height, width}, each of at least 1")


def square_tile(config: Config, default: Size) -> int:
    """The side of a tile, by `size`. Raises RecipeError where it is not square."""
    height, width = both_sides(config, "size", default)
    if height != width:
        raise config.refusal("size", "square: as high as it is wide")
    return height


def check_canvas(config: Config, key: str, tile: Size, most: int) -> None:
    """Raises RecipeError where a picture of so many tiles could never be resized, or has too many to choose from."""
    if most > MOST_TILES:
        raise config.refusal(key, f"at most {MOST_TILES} tiles")
    if tile[0] * tile[1] * most * 4 > MOST_RESIZED_BYTES:
        raise config.refusal(
            key,
            f"so few that all tiles of {tile[0]}x{tile[1]} have at most {MOST_RESIZED_BYTES // 4} pixels",
        )
