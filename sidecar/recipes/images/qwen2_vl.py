"""Qwen2-VL (Qwen2VLImageProcessor): to a whole number of merged patches within a budget, then patches in a row.

Both sides are rounded to a multiple of patch_size * merge_size; where the area then passes the budget, both
are scaled by its root and rounded down (up, where it falls short). Patches come in the order in which the
model merges them, merge_size x merge_size beside each other, each as [channel, time, row, column] with the
one picture repeated temporal_patch_size times.

Keys: `patch_size`, `merge_size`, `temporal_patch_size`; `size.shortest_edge` and `size.longest_edge` are the
budget in pixels, `min_pixels` and `max_pixels` their legacy names; the rest as image.py says.

Outputs: `pixel_values`, float32 [patches, 3 * temporal_patch_size * patch_size ** 2]; `image_grid_thw`, int64
[1, 3]: 1, and the patches down and across. Tokens: patches / merge_size ** 2.
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
from sidecar.recipes.image import BICUBIC, CLIP_MEAN, CLIP_STD, PIXELS, Defaults, ImageRecipe, Plan, common
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_GRID: Final = "image_grid_thw"
_KEYS: Final = frozenset({"max_pixels", "merge_size", "min_pixels", "patch_size", "temporal_patch_size"})
_DEFAULTS: Final = Defaults(BICUBIC, CLIP_MEAN, CLIP_STD, True)
_BUDGET: Final = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
# The processor refuses pictures beyond it.
_MOST_RATIO: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlan(Plan):
    """`target` is the size after the resize, (height, width) in pixels."""

    target: Size


@dataclass(frozen=True, slots=True)
class PatchRecipe(ImageRecipe[PatchPlan]):
    """The processor's numbers; see Recipe. `budget` is the least and the most pixels, None without a resize."""

    patch: int
    merge: int
    times: int
    budget: tuple[int, int] | None

    @property
    def geometry(self) -> tuple[str, ...]:
        cut = (
            f"cut into patches of {self.patch}x{self.patch}, {self.merge}x{self.merge} beside each other, each"
            f" {self.times} times"
        )
        if self.budget is None:
            return (cut,)
        least, most = self.budget
        factor, name = self.patch * self.merge, FILTERS[self.common.resample]
        return f"resize ({name}) to multiples of {factor} a side, {least} to {most} pixels in all", cut

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(PIXELS, self.pixel_type, (-1, self._length), rows=True),
            TensorSpec(_GRID, DataType.INT64, (1, 3), rows=True),
        )

    @property
    def _length(self) -> int:
        return 3 * self.times * self.patch**2

    def plan(self, size: Size) -> PatchPlan:
        factor = self.patch * self.merge
        target = size if self.budget is None else smart_resize(size, factor, self.budget)
        if target[0] % factor or target[1] % factor:
            raise CorruptMedia(
                f"the picture is {size[1]}x{size[0]} (width x height), and {self.processor}, which is told not to"
                f" resize, takes multiples of {factor} a side: resize it before sending, or set `do_resize`"
            )
        patches = target[0] * target[1] // self.patch**2
        return PatchPlan(
            shapes={PIXELS: (patches, self._length), _GRID: (1, 3)},
            tokens=patches // self.merge**2,
            resized=() if self.budget is None else (target,),
            target=target,
        )

    def shape(self, frames: Pixels, plan: PatchPlan) -> tuple[Shaped, ...]:
        pixels = self.resized(frames, plan.target)
        p, m = self.patch, self.merge
        down, across = plan.target[0] // p, plan.target[1] // p
        cut = pixels.reshape(down // m, m, p, across // m, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        view = np.broadcast_to(cut[:, :, :, :, :, np.newaxis], (*cut.shape[:5], self.times, p, p))
        grid = np.array([[1, down, across]], np.int64)
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], (Looked(view, 4, self.table),)),
            Shaped.of(_GRID, grid),
        )


def smart_resize(size: Size, factor: int, budget: tuple[int, int]) -> Size:
    """(height, width) as multiples of `factor` near `size`, their product in `budget` (least, most) where it can be.

    Python's round goes to the even neighbour on ties, and so does the reference's. Raises CorruptMedia where
    one side is over 200 times the other.
    """
    height, width = size
    if max(size) > _MOST_RATIO * min(size):
        raise CorruptMedia(
            f"the picture is {width}x{height} (width x height), and the model takes aspect ratios of up to"
            f" {_MOST_RATIO}: crop it before sending"
        )
    least, most = budget
    down, across = round(height / factor) * factor, round(width / factor) * factor
    if down * across > most:
        by = math.sqrt((height * width) / most)
        down = max(factor, math.floor(height / by / factor) * factor)
        across = max(factor, math.floor(width / by / factor) * factor)
    elif down * across < least:
        by = math.sqrt(least / (height * width))
        down, across = math.ceil(height * by / factor) * factor, math.ceil(width * by / factor) * factor
    return down, across


def patch_recipe(config: Config, processor: str, choice: Choice) -> PatchRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    return PatchRecipe(
        common(config, processor, _DEFAULTS, choice, _KEYS),
        patch=config.integer("patch_size", 14),
        merge=config.integer("merge_size", 2),
        times=config.integer("temporal_patch_size", 2),
        budget=_budget(config) if config.flag("do_resize", True) else None,
    )


def _budget(config: Config) -> tuple[int, int]:
    value = config.raw("size")
    size = _BUDGET if value is None else value
    if not isinstance(size, dict):
        raise config.refusal("size", "a mapping with shortest_edge and longest_edge, in pixels of area")
    found = tuple(
        legacy if (legacy := config.raw(name)) is not None else size.get(key)
        for key, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels"))
    )
    match found:
        case (least, most) if is_count(least) and is_count(most):
            return least, most
    raise config.refusal(
        "size", "shortest_edge and longest_edge (or min_pixels and max_pixels), each of at least 1"
    )


PROCESSORS: Final = {"Qwen2VLImageProcessor": patch_recipe}
"""The classes of this family by name, each with what makes its recipe."""
