"""Qwen2-VL and its near copies: to a whole number of merged patches within a budget, then patches in a row.

Both sides are rounded to a multiple of patch_size * merge_size; where the area then passes the budget, both
are scaled by its root and rounded down (up, where it falls short). Patches come in the order in which the
model merges them, merge_size x merge_size beside each other, each as [channel, time, row, column] with the
one picture repeated temporal_patch_size times.

Keys: `patch_size`, `merge_size`, `temporal_patch_size`; `size.shortest_edge` and `size.longest_edge` are the
budget in pixels, `min_pixels` and `max_pixels` their legacy names; the rest as image.py says.

Outputs: `pixel_values`, float32 [patches, 3 * temporal_patch_size * patch_size ** 2]; `image_grid_thw`, int64
[1, 3]: 1, and the patches down and across. Tokens: patches / merge_size ** 2.

The copies are a row of defaults each. GLM-4.1V and 4.6V count the budget in pixels times temporal_patch_size and
enlarge a picture first, both sides alike, until neither is below patch_size * merge_size; PaddleOCR-VL does this
too, one side after the other, and leaves patches in the order of the picture as [patches,
3 * temporal_patch_size, row, column]. VideoLLaMA 3 gives `image_merge_sizes` too, int64 [1]. GLM's and Ernie's know no
legacy names. MiniMax-M3's exists for the torchvision backend alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import (
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    PIXELS,
    Defaults,
    ImageRecipe,
    Plan,
    common,
    torchvision_only,
)
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_GRID: Final = "image_grid_thw"
_MERGES: Final = "image_merge_sizes"
_KEYS: Final = frozenset({"default_to_square", "merge_size", "patch_size", "temporal_patch_size"})
_EDGES: Final = ("shortest_edge", "longest_edge")
_LEGACY: Final = ("min_pixels", "max_pixels")
# The processor refuses pictures beyond it.
_MOST_RATIO: Final = 200


def enlarged_at_once(size: Size, factor: int) -> Size:
    """(height, width), both times what makes the shorter one `factor`, down to a pixel; as the reference rounds."""
    if min(size) >= factor:
        return size
    by = max(factor / size[0], factor / size[1])
    return int(size[0] * by), int(size[1] * by)


def enlarged_in_turn(size: Size, factor: int) -> Size:
    """(height, width), scaled to a height of at least `factor`, then to such a width; as the reference rounds."""
    height, width = size
    if height < factor:
        height, width = factor, round(width * factor / height)
    if width < factor:
        height, width = round(height * factor / width), factor
    return height, width


@dataclass(frozen=True, slots=True)
class PatchDefaults(Defaults):
    """Also `budget`, the least and the most pixels, and what sets a copy apart.

    `counts_times`: each repetition counts towards the budget. `enlarged`: what is done to small pictures first.
    `flat`: a patch is one axis, in the order of merging. `legacy`: the budget's old names are known.
    """

    budget: tuple[int, int] = (56 * 56, 28 * 28 * 1280)
    times: int = 2
    merge: int = 2
    counts_times: bool = False
    enlarged: Callable[[Size, int], Size] | None = None
    flat: bool = True
    tells_merge: bool = False
    legacy: bool = True


_QWEN: Final = PatchDefaults(BICUBIC, CLIP_MEAN, CLIP_STD, True)
_GLM: Final = PatchDefaults(
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    True,
    budget=(112 * 112, 28 * 28 * 15000),
    counts_times=True,
    enlarged=enlarged_at_once,
    legacy=False,
)
_ERNIE: Final = PatchDefaults(
    BICUBIC, CLIP_MEAN, CLIP_STD, True, budget=(56 * 56, 28 * 28 * 6177), times=1, legacy=False
)
_PADDLE: Final = PatchDefaults(
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    True,
    budget=(384 * 384, 1536 * 1536),
    times=1,
    enlarged=enlarged_in_turn,
    flat=False,
)
_VIDEO_LLAMA: Final = PatchDefaults(BICUBIC, HALF, HALF, True, times=1, merge=1, tells_merge=True)
_MINIMAX: Final = PatchDefaults(BICUBIC, CLIP_MEAN, CLIP_STD, True, budget=(4 * 28 * 28, 451584))
# MiniMax-M3's own file has this `size`, which its processor takes for none.
_MINIMAX_SIZE: Final = [672, 672]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlan(Plan):
    """`target` is the size after the resize, (height, width) in pixels."""

    target: Size


@dataclass(frozen=True, slots=True)
class PatchRecipe(ImageRecipe[PatchPlan]):
    """The processor's numbers; see Recipe. `budget` is the least and the most pixels, None without a resize."""

    kind: PatchDefaults
    patch: int
    merge: int
    times: int
    budget: tuple[int, int] | None

    @property
    def geometry(self) -> tuple[str, ...]:
        order = f"{self.merge}x{self.merge} beside each other" if self.kind.flat else "row by row"
        cut = f"cut into patches of {self.patch}x{self.patch}, {order}, each {self.times} times"
        if self.budget is None:
            return (cut,)
        least, most = self.budget
        factor, name = self.patch * self.merge, FILTERS[self.common.resample]
        first = f", sides below {factor} enlarged to it first" if self.kind.enlarged else ""
        counted = f", each counted {self.times} times" if self.kind.counts_times else ""
        return (
            f"resize ({name}) to multiples of {factor} a side{first}, {least} to {most} pixels in all{counted}",
            cut,
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        specs = (
            TensorSpec(PIXELS, self.pixel_type, (-1, *self._patch), rows=True),
            TensorSpec(_GRID, DataType.INT64, (1, 3), rows=True),
        )
        merges = (TensorSpec(_MERGES, DataType.INT64, (1,), rows=True),)
        return specs + merges if self.kind.tells_merge else specs

    @property
    def _patch(self) -> tuple[int, ...]:
        """The shape of one."""
        channels = 3 * self.times
        return (channels * self.patch**2,) if self.kind.flat else (channels, self.patch, self.patch)

    def plan(self, size: Size) -> PatchPlan:
        factor = self.patch * self.merge
        target = size
        if self.budget is not None:
            times = self.times if self.kind.counts_times else 1
            target = smart_resize(size, factor, self.budget, times, self.kind.enlarged)
        if target[0] % factor or target[1] % factor:
            raise CorruptMedia(
                f"the picture is {size[1]}x{size[0]} (width x height), and {self.processor}, which is told not to"
                f" resize, takes multiples of {factor} a side: resize it before sending, or set `do_resize`"
            )
        patches = target[0] * target[1] // self.patch**2
        return PatchPlan(
            shapes={PIXELS: (patches, *self._patch), _GRID: (1, 3)}
            | ({_MERGES: (1,)} if self.kind.tells_merge else {}),
            tokens=patches // self.merge**2,
            resized=() if self.budget is None else (target,),
            target=target,
        )

    def shape(self, frames: Pixels, plan: PatchPlan) -> tuple[Shaped, ...]:
        pixels = self.resized(frames, plan.target)
        p, m = self.patch, self.merge if self.kind.flat else 1
        down, across = plan.target[0] // p, plan.target[1] // p
        cut = pixels.reshape(down // m, m, p, across // m, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        view = np.broadcast_to(cut[:, :, :, :, :, np.newaxis], (*cut.shape[:5], self.times, p, p))
        grid = np.array([[1, down, across]], np.int64)
        outputs = (
            Shaped(PIXELS, plan.shapes[PIXELS], (Looked(view, 4, self.table),)),
            Shaped.of(_GRID, grid),
        )
        merges = (Shaped.of(_MERGES, np.array([self.merge], np.int64)),)
        return outputs + merges if self.kind.tells_merge else outputs


def smart_resize(
    size: Size,
    factor: int,
    budget: tuple[int, int],
    times: int = 1,
    enlarged: Callable[[Size, int], Size] | None = None,
) -> Size:
    """(height, width) as multiples of `factor` near `size`, `times` their product in `budget` where it can be.

    `budget` is (least, most); `enlarged` is what is done to `size` first. Python's round goes to the even
    neighbour on ties, and so does the reference's. Raises CorruptMedia where one side is over 200 times the other.
    """
    height, width = size if enlarged is None else enlarged(size, factor)
    if max(height, width) > _MOST_RATIO * min(height, width):
        raise CorruptMedia(
            f"the picture is {size[1]}x{size[0]} (width x height), and the model takes aspect ratios of up to"
            f" {_MOST_RATIO}: crop it before sending"
        )
    least, most = budget
    down, across = round(height / factor) * factor, round(width / factor) * factor
    if times * down * across > most:
        by = math.sqrt((times * height * width) / most)
        down = max(factor, math.floor(height / by / factor) * factor)
        across = max(factor, math.floor(width / by / factor) * factor)
    elif times * down * across < least:
        by = math.sqrt(least / (times * height * width))
        down, across = math.ceil(height * by / factor) * factor, math.ceil(width * by / factor) * factor
    return down, across


def patch_recipe(kind: PatchDefaults, config: Config, processor: str, choice: Choice) -> PatchRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    known = _KEYS.union(_LEGACY if kind.legacy else ())
    return PatchRecipe(
        common(config, processor, kind, choice, known),
        kind,
        patch=config.integer("patch_size", 14),
        merge=config.integer("merge_size", kind.merge),
        times=config.integer("temporal_patch_size", kind.times),
        budget=_budget(kind, config) if config.flag("do_resize", True) else None,
    )


def _minimax(config: Config, processor: str, choice: Choice) -> PatchRecipe:
    """MiniMax-M3's recipe: for one backend, and without the `size` that is none."""
    if config.raw("size") == _MINIMAX_SIZE:
        config = replace(config, values={**config.values, "size": None})
    return patch_recipe(_MINIMAX, config, processor, torchvision_only(config, processor, choice))


def _budget(kind: PatchDefaults, config: Config) -> tuple[int, int]:
    value = config.raw("size")
    size = dict(zip(_EDGES, kind.budget, strict=True)) if value is None else value
    if not isinstance(size, dict):
        raise config.refusal("size", "a mapping with shortest_edge and longest_edge, in pixels of area")
    found = tuple(
        legacy if kind.legacy and (legacy := config.raw(name)) is not None else size.get(key)
        for key, name in zip(_EDGES, _LEGACY, strict=True)
    )
    match found:
        case (least, most) if is_count(least) and is_count(most):
            return least, most
    names = " (or min_pixels and max_pixels)" if kind.legacy else ""
    raise config.refusal("size", f"shortest_edge and longest_edge{names}, each of at least 1")


PROCESSORS: Final = {
    "Qwen2VLImageProcessor": partial(patch_recipe, _QWEN),
    "Glm4vImageProcessor": partial(patch_recipe, _GLM),
    "Glm46VImageProcessor": partial(patch_recipe, _GLM),
    "Ernie4_5_VLMoeImageProcessor": partial(patch_recipe, _ERNIE),
    "Ernie4_5_VL_MoeImageProcessor": partial(patch_recipe, _ERNIE),
    "PaddleOCRVLImageProcessor": partial(patch_recipe, _PADDLE),
    "VideoLlama3ImageProcessor": partial(patch_recipe, _VIDEO_LLAMA),
    "MiniMaxM3VLImageProcessor": _minimax,
}
"""The classes of this family by name, each with what makes its recipe."""
