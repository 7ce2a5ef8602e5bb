"""SigLIP 2 NaFlex (Siglip2ImageProcessor): the largest size of a picture's shape within a number of patches.

One factor scales both sides, which are then raised to the next multiple of the patch; the factor is the largest,
up to 100, with which the patches are at most `max_num_patches`, found by halving an interval as the reference does.
Patches come row by row, each as [row, column, channel], and zeros fill up to `max_num_patches`.

Keys: `patch_size`, `max_num_patches`; the rest as image.py says, but for `size`, which the processor ignores.

Outputs: `pixel_values`, float32 [max_num_patches, 3 * patch_size ** 2]; `pixel_attention_mask`, int32
[max_num_patches]: 1 for a patch; `spatial_shapes`, int64 [2]: patches down and across. Tokens: none, it has no prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.media import DataType, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.image import BILINEAR, HALF, PIXELS, Defaults, ImageRecipe, common
from sidecar.recipes.patches import BudgetPlan, filled_patches, grid_of
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_MASK: Final = "pixel_attention_mask"
_SHAPES: Final = "spatial_shapes"
_KEYS: Final = frozenset({"default_to_square", "max_num_patches", "patch_size"})
_DEFAULTS: Final = Defaults(BILINEAR, HALF, HALF, False)

# The reference's interval of factors, and how narrow it gets.
_LEAST: Final = 1e-6
_MOST: Final = 100.0
_WIDTH: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Siglip2Recipe(ImageRecipe[BudgetPlan]):
    """The processor's numbers; see Recipe. `most` is the patches of every output."""

    patch: int
    most: int
    resizes: bool

    @property
    def geometry(self) -> tuple[str, ...]:
        cut = f"cut into patches of {self.patch}x{self.patch}, zeros up to {self.most}"
        if not self.resizes:
            return (cut,)
        name = FILTERS[self.common.resample]
        return f"resize ({name}) to multiples of {self.patch} a side, at most {self.most} patches in all", cut

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (self.most, 3 * self.patch**2)),
            TensorSpec(_MASK, DataType.INT32, (self.most,)),
            TensorSpec(_SHAPES, DataType.INT64, (2,)),
        )

    @property
    def fills_up(self) -> bool:
        return True

    def plan(self, size: Size) -> BudgetPlan:
        target = filled(size, self.patch, self.most) if self.resizes else size
        return BudgetPlan(
            shapes={spec.name: spec.shape for spec in self.outputs},
            resized=(target,) if self.resizes else (),
            target=target,
            grid=grid_of(target, self.patch, self.most, self.processor),
        )

    def shape(self, frames: Pixels, plan: BudgetPlan) -> tuple[Shaped, ...]:
        down, across = plan.grid
        mask = np.zeros(self.most, np.int32)
        mask[: down * across] = 1
        return (
            filled_patches(self.resized(frames, plan.target), self.patch, self.most, self.table),
            Shaped.of(_MASK, mask),
            Shaped.of(_SHAPES, np.array(plan.grid, np.int64)),
        )


def filled(size: Size, patch: int, most: int) -> Size:
    """(height, width) as multiples of `patch`, of the shape of `size`, with at most `most` patches."""

    def scaled(by: float) -> Size:
        down, across = (max(1, math.ceil(side * by / patch)) for side in size)
        return down * patch, across * patch

    low, high = _LEAST, _MOST
    while high - low >= _WIDTH:
        middle = (low + high) / 2
        height, width = scaled(middle)
        if height * width <= most * patch**2:
            low = middle
        else:
            high = middle
    return scaled(low)


def siglip2_recipe(config: Config, processor: str, choice: Choice) -> Siglip2Recipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    return Siglip2Recipe(
        common(config, processor, _DEFAULTS, choice, _KEYS),
        patch=config.integer("patch_size", 16),
        most=config.integer("max_num_patches", 256),
        resizes=config.flag("do_resize", True),
    )


PROCESSORS: Final = {"Siglip2ImageProcessor": siglip2_recipe}
"""The classes of this family by name, each with what makes its recipe."""
