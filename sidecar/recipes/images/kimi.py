"""Kimi K2.5 (Kimi_K25ImageProcessor): shrunk to a budget of patches, zeros below and beside, then patches in a row.

One factor, never above 1, scales both sides so that whole patches are at most `max_patches` and neither side passes
`size`; sides are rounded down. Black fills up to multiples of patch_size * merge_size, at the bottom and
right. Patches come row by row, each as [channel, row, column].

Keys: `max_patches`; `size.max_height` and `size.max_width`, equal, in patches a side; `patch_size`, `merge_size`;
the rest as image.py says. transformers has it for the torchvision backend alone.

Outputs: `pixel_values`, float32 [patches, 3, patch_size, patch_size]; `image_grid_thw`, int64 [1, 3]: 1, and the
patches down and across. Tokens: patches / merge_size ** 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import BICUBIC, HALF, PIXELS, Defaults, ImageRecipe, Plan, common, torchvision_only
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_GRID: Final = "image_grid_thw"
_KEYS: Final = frozenset({"default_to_square", "max_patches", "merge_size", "patch_size"})
_DEFAULTS: Final = Defaults(BICUBIC, HALF, HALF, True)
_SIDE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class KimiPlan(Plan):
    """`target` is the size after the resize, `canvas` with what is filled in, (height, width) in pixels."""

    target: Size
    canvas: Size


@dataclass(frozen=True, slots=True)
class Budget:
    """The most patches in all, and the most a side."""

    total: int
    side: int


@dataclass(frozen=True, slots=True)
class KimiRecipe(ImageRecipe[KimiPlan]):
    """The processor's numbers; see Recipe. `budget` is None without a resize."""

    patch: int
    merge: int
    budget: Budget | None

    @property
    def geometry(self) -> tuple[str, ...]:
        cut = f"cut into patches of {self.patch}x{self.patch}"
        if self.budget is None:
            return (cut,)
        name, most = FILTERS[self.common.resample], self.budget
        return (
            f"resize ({name}), never up, to at most {most.total} patches in all and {most.side} a side",
            f"zeros to multiples of {self.patch * self.merge} a side",
            cut,
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (-1, 3, self.patch, self.patch), rows=True),
            TensorSpec(_GRID, DataType.INT64, (1, 3), rows=True),
        )

    def plan(self, size: Size) -> KimiPlan:
        target = canvas = size
        if self.budget is not None:
            target = shrunk(size, self.patch, self.budget)
            factor = self.patch * self.merge
            canvas = -(-target[0] // factor) * factor, -(-target[1] // factor) * factor
        if canvas[0] % self.patch or canvas[1] % self.patch:
            raise CorruptMedia(
                f"the picture is {size[1]}x{size[0]} (width x height), and {self.processor}, which is told not to"
                f" resize, takes multiples of {self.patch} a side: resize it before sending, or set `do_resize`"
            )
        patches = canvas[0] * canvas[1] // self.patch**2
        return KimiPlan(
            shapes={PIXELS: (patches, 3, self.patch, self.patch), _GRID: (1, 3)},
            tokens=patches // self.merge**2,
            resized=() if self.budget is None else (target,),
            target=target,
            canvas=canvas,
        )

    def shape(self, frames: Pixels, plan: KimiPlan) -> tuple[Shaped, ...]:
        if plan.canvas == plan.target:
            pixels = self.resized(frames, plan.target)
        else:
            pixels = np.zeros((*plan.canvas, 3), np.uint8)
            self.fill(pixels[: plan.target[0], : plan.target[1]], frames)
        down, across = plan.canvas[0] // self.patch, plan.canvas[1] // self.patch
        cut = pixels.reshape(down, self.patch, across, self.patch, 3).transpose(0, 2, 4, 1, 3)
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], (Looked(cut, 2, self.table),)),
            Shaped.of(_GRID, np.array([[1, down, across]], np.int64)),
        )


def shrunk(size: Size, patch: int, budget: Budget) -> Size:
    """(height, width), both sides by one factor and at least 1; rounded as the reference does."""
    height, width = size
    longest = budget.side * patch
    patches = max(1, height // patch) * max(1, width // patch)
    by = min(1.0, math.sqrt(budget.total / patches), longest / height, longest / width)
    return min(max(1, int(height * by)), longest), min(max(1, int(width * by)), longest)


def kimi_recipe(config: Config, processor: str, choice: Choice) -> KimiRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    shared = common(config, processor, _DEFAULTS, torchvision_only(config, processor, choice), _KEYS)
    budget = Budget(config.integer("max_patches", 16384), _side(config))
    return KimiRecipe(
        shared,
        patch=config.integer("patch_size", 14),
        merge=config.integer("merge_size", 2),
        budget=budget if config.flag("do_resize", True) else None,
    )


def _side(config: Config) -> int:
    match config.raw("size"):
        case None:
            return _SIDE
        case {"max_height": height, "max_width": width} if is_count(height) and height == width:
            return height
    raise config.refusal("size", "{max_height, max_width}, equal, in patches, of at least 1")


PROCESSORS: Final = {"Kimi_K25ImageProcessor": kimi_recipe}
"""The classes of this family by name, each with what makes its recipe."""
