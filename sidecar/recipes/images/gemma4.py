"""Gemma 4 (Gemma4ImageProcessor): scaled, up or down, to fill a budget of patches, which are then pooled.

Both sides are multiplied by the root of the budget over the area, and rounded down to multiples of patch_size *
pooling_kernel_size; one that would vanish becomes a single multiple, and the other as many as it is times
longer, within the budget. Patches come row by row, each as [row, column, channel], and zeros fill up to the budget.

Keys: `max_soft_tokens` (70, 140, 280, 560 or 1120), `pooling_kernel_size`, `patch_size`; the budget is
max_soft_tokens * pooling_kernel_size ** 2 patches; the rest as image.py says, but for `size`, which is ignored.

Outputs: `pixel_values`, float32 [budget, 3 * patch_size ** 2]; `image_position_ids`, int64 [budget, 2]: column and
row of each patch, -1 for what is filled in; `num_soft_tokens_per_image`, int64: the tokens, which are patches /
pooling_kernel_size ** 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.media import DataType, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.image import BICUBIC, PIXELS, Defaults, ImageRecipe, common
from sidecar.recipes.patches import BudgetPlan, filled_patches, grid_of
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_POSITIONS: Final = "image_position_ids"
_TOKENS: Final = "num_soft_tokens_per_image"
_KEYS: Final = frozenset({"default_to_square", "max_soft_tokens", "patch_size", "pooling_kernel_size"})
_DEFAULTS: Final = Defaults(BICUBIC, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True, normalizes=False)
_SOFT_TOKENS: Final = (70, 140, 280, 560, 1120)
_MOST_TOKENS: Final = 280


@dataclass(frozen=True, slots=True)
class Gemma4Recipe(ImageRecipe[BudgetPlan]):
    """The processor's numbers; see Recipe. `most` is the patches of every output."""

    patch: int
    pool: int
    most: int
    resizes: bool

    @property
    def geometry(self) -> tuple[str, ...]:
        cut = f"cut into patches of {self.patch}x{self.patch}, zeros up to {self.most}"
        if not self.resizes:
            return (cut,)
        side = self.patch * self.pool
        name = FILTERS[self.common.resample]
        return f"resize ({name}) to multiples of {side} a side, as large as {self.most} patches allow", cut

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (self.most, 3 * self.patch**2)),
            TensorSpec(_POSITIONS, DataType.INT64, (self.most, 2)),
            TensorSpec(_TOKENS, DataType.INT64, ()),
        )

    @property
    def fills_up(self) -> bool:
        return True

    def plan(self, size: Size) -> BudgetPlan:
        target = pooled(size, self.patch, self.pool, self.most) if self.resizes else size
        down, across = grid_of(target, self.patch, self.most, self.processor)
        return BudgetPlan(
            shapes={spec.name: spec.shape for spec in self.outputs},
            tokens=down * across // self.pool**2,
            resized=(target,) if self.resizes else (),
            target=target,
            grid=(down, across),
        )

    def shape(self, frames: Pixels, plan: BudgetPlan) -> tuple[Shaped, ...]:
        rows, columns = np.indices(plan.grid)
        positions = np.full((self.most, 2), -1, np.int64)
        positions[: rows.size] = np.stack((columns, rows), axis=-1).reshape(-1, 2)
        return (
            filled_patches(self.resized(frames, plan.target), self.patch, self.most, self.table),
            Shaped.of(_POSITIONS, positions),
            Shaped.of(_TOKENS, np.array(plan.tokens, np.int64)),
        )


def pooled(size: Size, patch: int, pool: int, most: int) -> Size:
    """(height, width) as multiples of `patch * pool`, at most `most` patches; rounded as the reference does.

    They cannot both vanish: `most` is many times `pool` squared.
    """
    height, width = size
    side, by = patch * pool, math.sqrt(most * patch**2 / (height * width))
    down, across = math.floor(by * height / side), math.floor(by * width / side)
    longest = most // pool**2
    if down == 0:
        down, across = 1, min(width // height, longest)
    elif across == 0:
        down, across = min(height // width, longest), 1
    return down * side, across * side


def gemma4_recipe(config: Config, processor: str, choice: Choice) -> Gemma4Recipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("max_soft_tokens", _MOST_TOKENS, _SOFT_TOKENS)
    pool = config.integer("pooling_kernel_size", 3)
    return Gemma4Recipe(
        common(config, processor, _DEFAULTS, choice, _KEYS),
        patch=config.integer("patch_size", 16),
        pool=pool,
        most=config.integer("max_soft_tokens", _MOST_TOKENS) * pool**2,
        resizes=config.flag("do_resize", True),
    )


PROCESSORS: Final = {"Gemma4ImageProcessor": gemma4_recipe}
"""The classes of this family by name, each with what makes its recipe."""
