"""Pixtral and Mistral 3 (PixtralImageProcessor): shrunk to a box where larger, then up to whole patches.

A picture that is larger than the box is divided by the ratio of the side that passes it most, both sides
rounded down; a smaller one keeps its size. Both are then raised to the next multiple of the patch.

Keys: `size.longest_edge`, the box's side (or `size.height` and `size.width`, or one number for both);
`patch_size`, a number or {height, width}; the rest as image.py says. `do_pad` fills up to the largest picture
of a batch, which one alone is. Where the files name PixtralProcessor, patches are its own `patch_size` times its
`spatial_merge_size` (processor_config.json), whatever the image processor's key says, as it is called with them.

Outputs: `pixel_values`, float32 [3, height, width]; `image_sizes`, int64 [2]: height and width of these.
Tokens: PixtralProcessor puts one for each of its patches and one more at the end of each row;
LightOnOcrProcessor one for each `patch_size` * `spatial_merge_size`, rounded down; else not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import BICUBIC, CLIP_MEAN, CLIP_STD, PIXELS, Defaults, ImageRecipe, Plan, common
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_SIZES: Final = "image_sizes"
_KEYS: Final = frozenset({"default_to_square", "do_center_crop", "do_pad", "patch_size"})
_DEFAULTS: Final = Defaults(BICUBIC, CLIP_MEAN, CLIP_STD, True)
_EDGE: Final = 1024
_PATCH: Final = 16


@dataclass(frozen=True, slots=True)
class Grid:
    """How a model's whole processor counts: a token for each `side` x `side` pixels, and `ends` more a row."""

    side: int
    ends: int

    def tokens(self, size: Size) -> int:
        return size[0] // self.side * (size[1] // self.side + self.ends)


@dataclass(frozen=True, slots=True)
class _Counting:
    """A whole processor's defaults, and whether the image processor is called with its patch."""

    patch: int
    merge: int
    ends: int
    rules: bool


_PIXTRAL: Final = "PixtralProcessor"
_COUNTINGS: Final[Mapping[str, _Counting]] = {
    _PIXTRAL: _Counting(patch=16, merge=1, ends=1, rules=True),
    "LightOnOcrProcessor": _Counting(patch=14, merge=2, ends=0, rules=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixtralPlan(Plan):
    """`target` is the size after the resize, (height, width) in pixels."""

    target: Size


@dataclass(frozen=True, slots=True)
class PixtralRecipe(ImageRecipe[PixtralPlan]):
    """The processor's numbers; see Recipe. `box` is the largest size, None without a resize."""

    box: Size | None
    patch: Size
    grid: Grid | None

    @property
    def geometry(self) -> tuple[str, ...]:
        if self.box is None:
            return ()
        (high, wide), (down, across) = self.box, self.patch
        within = (
            f"never up, to within {high}x{wide} (height x width), then up to multiples of {down}x{across}"
        )
        return (f"resize ({FILTERS[self.common.resample]}), {within}",)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (3, -1, -1)),
            TensorSpec(_SIZES, DataType.INT64, (2,)),
        )

    def plan(self, size: Size) -> PixtralPlan:
        target = size if self.box is None else boxed(size, self.box, self.patch)
        if 0 in target:
            raise CorruptMedia(
                f"the picture is {size[1]}x{size[0]} (width x height), and {self.processor} leaves nothing of its"
                " shorter side: crop it before sending"
            )
        return PixtralPlan(
            shapes={PIXELS: (3, *target), _SIZES: (2,)},
            tokens=None if self.grid is None else self.grid.tokens(target),
            resized=() if self.box is None else (target,),
            target=target,
        )

    def shape(self, frames: Pixels, plan: PixtralPlan) -> tuple[Shaped, ...]:
        pixels = self.resized(frames, plan.target)
        return (
            Shaped.channels_first(PIXELS, pixels, self.table),
            Shaped.of(_SIZES, np.array(plan.target, np.int64)),
        )


def boxed(size: Size, box: Size, patch: Size) -> Size:
    """(height, width) as multiples of `patch`, at most one patch beyond `box`; a side is 0 for extreme aspect ratios.

    The reference divides in floating point and rounds down, and so does this.
    """
    height, width = size
    ratio = max(height / box[0], width / box[1])
    if ratio > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    return -(-height // patch[0]) * patch[0], -(-width // patch[1]) * patch[1]


def pixtral_recipe(config: Config, processor: str, choice: Choice) -> PixtralRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("do_center_crop", False, (False,))
    patch, grid = _patch(config), None
    whole = config.processor or Config(config.source, {})
    counting = _COUNTINGS.get(config.whole_processor)
    if counting is not None:
        side = whole.integer("patch_size", counting.patch) * whole.integer(
            "spatial_merge_size", counting.merge
        )
        patch, grid = (side, side) if counting.rules else patch, Grid(side, counting.ends)
    box = _box(config) if config.flag("do_resize", True) else None
    return PixtralRecipe(common(config, processor, _DEFAULTS, choice, _KEYS), box, patch, grid)


def _box(config: Config) -> Size:
    match config.raw("size"):
        case None:
            return _EDGE, _EDGE
        case int(edge) | {"longest_edge": int(edge)} if is_count(edge):
            return edge, edge
        case [height, width] | {"height": height, "width": width} if is_count(height) and is_count(width):
            return height, width
    raise config.refusal(
        "size", "a whole number, [height, width], {longest_edge} or {height, width}, each of at least 1"
    )


def _patch(config: Config) -> Size:
    match config.raw("patch_size"):
        case None:
            return _PATCH, _PATCH
        case int(side) if is_count(side):
            return side, side
        case [height, width] | {"height": height, "width": width} if is_count(height) and is_count(width):
            return height, width
    raise config.refusal(
        "patch_size", "a whole number, [height, width] or {height, width}, each of at least 1"
    )


PROCESSORS: Final = {"PixtralImageProcessor": pixtral_recipe}
"""The classes of this family by name, each with what makes its recipe."""
