"""InternVL, Aya Vision, Qianfan OCR, GOT-OCR 2 (GotOcr2ImageProcessor), Cohere Vision (Cohere2VisionImageProcessor): a
grid of tiles, and the whole picture beside them.

GotOcr2: of all grids of min_patches to max_patches tiles, the one whose aspect ratio is nearest to the picture's; of
equally near ones the larger, as long as its area is below twice the picture's. Cohere2Vision: the grid that the
picture has to be scaled up least for to touch two of its sides; if all would make it smaller, the one that does so
least. The picture is resized to the whole grid, aspect ratio not kept, and cut; where that gives more than one tile,
a thumbnail follows, the whole picture resized to one tile. Without crop_to_patches it is one tile, as large as `size`.

Keys: `size` (of a tile: a number or {height, width}), `crop_to_patches`, `min_patches` (GotOcr2), `max_patches`,
`patch_size` (Cohere2Vision, for the count of tokens); the rest as image.py says. Tiles are resized even where
`do_resize` is false. What cuts a picture for a model is its whole processor, and those of GotOcr2 overrule its keys:
InternVL's, Aya Vision's and Qianfan OCR's always cut, GOT-OCR 2's never does. Where `processor_class` in
processor_config.json or in these keys, or the `model_type` of config.json, names one of them, it is followed.
`use_thumbnail` is a key of none of them.

Outputs: `pixel_values`, float32 [tiles, 3, height, width], the thumbnail last; `num_patches`, int64 [1]: the tiles.
Cohere2Vision exists for the torchvision backend alone.

Tokens, with everything that stands for the picture in the prompt, of n tiles:
InternVL and Qianfan OCR: 2 + n * image_seq_length (of processor_config.json);
Aya Vision: 2 + n * (1 + (img_size // (patch_size * downsample_factor)) ** 2), all of processor_config.json;
GOT-OCR 2: 256 * n; Cohere2Vision: 2 + n * (1 + patch_size ** 2). Not known where no whole processor is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.image import (
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    PIXELS,
    Defaults,
    ImageRecipe,
    Plan,
    common,
    torchvision_only,
)
from sidecar.recipes.tiles import Grid, both_sides, check_canvas, grids, in_tiles
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS

_COUNT: Final = "num_patches"
_KEYS: Final = frozenset({"crop_to_patches", "default_to_square", "max_patches", "min_patches"})
_DEFAULTS: Final = Defaults(BICUBIC, CLIP_MEAN, CLIP_STD, True)


@dataclass(frozen=True, slots=True)
class TileCount:
    """How many tokens a picture takes: some around all of it, and so many for each tile."""

    around: int
    each: int


class ChooseGrid(Protocol):
    """How a picture's grid is chosen."""

    def __call__(self, size: Size, tile: Size, least: int, most: int, /) -> Grid: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """`choose` finds the grid of `least` to `most` tiles for a picture; `text` says so to people."""

    choose: ChooseGrid
    text: str
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan(Plan):
    """`target` is the size after the resize, cut into `grid`; `thumbnail`: the whole picture is another tile."""

    target: Size
    grid: Grid
    thumbnail: bool


@dataclass(frozen=True, slots=True)
class TileRecipe(ImageRecipe[TilePlan]):
    """The processor's numbers; see Recipe. None stands for what is not done, or not known."""

    tile: Size | None
    rule: Rule | None
    count: TileCount | None

    @property
    def geometry(self) -> tuple[str, ...]:
        if self.tile is None:
            return ()
        size = f"{self.tile[0]}x{self.tile[1]} (height x width)"
        name = FILTERS[self.common.resample]
        if self.rule is None:
            return (f"resize ({name}) to {size}, aspect ratio not kept",)
        return (
            f"grid of {self.rule.least} to {self.rule.most} tiles of {size}: {self.rule.text}",
            f"resize ({name}) to the grid, aspect ratio not kept, and cut",
            f"more than one tile: add the whole picture, resized to {size}",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        height, width = self.tile or (-1, -1)
        return (
            TensorSpec(PIXELS, self.pixel_type, (-1, 3, height, width), rows=True),
            TensorSpec(_COUNT, DataType.INT64, (1,), rows=True),
        )

    def plan(self, size: Size) -> TilePlan:
        tile = self.tile or size
        grid = (1, 1) if self.rule is None else self.rule.choose(size, tile, self.rule.least, self.rule.most)
        target = tile[0] * grid[0], tile[1] * grid[1]
        thumbnail = grid != (1, 1)
        tiles = grid[0] * grid[1] + thumbnail
        return TilePlan(
            shapes={PIXELS: (tiles, 3, *tile), _COUNT: (1,)},
            tokens=None if self.count is None else self.count.around + self.count.each * tiles,
            resized=() if self.tile is None else (target, tile) if thumbnail else (target,),
            target=target,
            grid=grid,
            thumbnail=thumbnail,
        )

    def shape(self, frames: Pixels, plan: TilePlan) -> tuple[Shaped, ...]:
        tiles, _, *tile = plan.shapes[PIXELS]
        parts = [Looked(in_tiles(self.resized(frames, plan.target), plan.grid), 2, self.table)]
        if plan.thumbnail:
            whole = self.resized(frames, (tile[0], tile[1]))
            parts.append(Looked(whole.transpose(2, 0, 1), 0, self.table))
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], tuple(parts)),
            Shaped.of(_COUNT, np.array([tiles], np.int64)),
        )


def nearest_grid(size: Size, tile: Size, least: int, most: int) -> Grid:
    """GotOcr2's: the nearest aspect ratio, then the most tiles below twice the picture's area."""
    height, width = size
    best, nearest = (1, 1), float("inf")
    for down, across in grids(least, most):
        distance = abs(width / height - across / down)
        if distance < nearest:
            best, nearest = (down, across), distance
        elif distance == nearest and 2 * height * width > tile[0] * tile[1] * down * across:
            best = down, across
    return best


def covering_grid(size: Size, tile: Size, least: int, most: int) -> Grid:  # noqa: ARG001 - a ChooseGrid
    """Cohere2Vision's: the least scale of at least 1, else the largest. It takes tiles for square."""
    height, width = size
    scales = {
        (down, across): min(across * tile[0] / width, down * tile[0] / height)
        for down, across in grids(1, most)
    }
    enlarging = {grid: scale for grid, scale in scales.items() if scale >= 1}
    return min(enlarging, key=enlarging.__getitem__) if enlarging else max(scales, key=scales.__getitem__)


@dataclass(frozen=True, slots=True)
class Family:
    """A class of image processor: its defaults, how it chooses a grid, and its keys beside _KEYS."""

    tile: Size
    cuts: bool
    choose: ChooseGrid
    text: str
    keys: frozenset[str] = frozenset()


_GOT_OCR2: Final = Family(
    (384, 384), False, nearest_grid, "the nearest aspect ratio, larger grids up to twice the picture's area"
)
_COHERE2: Final = Family(
    (512, 512),
    True,
    covering_grid,
    "the one that enlarges the picture least, else shrinks it least",
    frozenset({"patch_size"}),
)


@dataclass(frozen=True, slots=True)
class Owner:
    """A whole processor: the keys that it sets, whatever the file says, and its tokens, by its own keys."""

    keys: Mapping[str, object]
    count: Callable[[Config | None], TileCount | None]


def _count_of_internvl(config: Config | None) -> TileCount | None:
    return None if config is None else TileCount(2, config.integer("image_seq_length", 256))


def _count_of_aya(config: Config | None) -> TileCount | None:
    if config is None:
        return None
    patch = config.integer("patch_size", 28) * config.integer("downsample_factor", 1)
    return TileCount(2, 1 + (config.integer("img_size", 364) // patch) ** 2)


_CUTS: Final = {"crop_to_patches": True}
_OWNERS: Final = {
    "InternVLProcessor": Owner(_CUTS, _count_of_internvl),
    "QianfanOCRProcessor": Owner(_CUTS, _count_of_internvl),
    "AyaVisionProcessor": Owner(_CUTS, _count_of_aya),
    "GotOcr2Processor": Owner(
        {"crop_to_patches": False, "min_patches": 1, "max_patches": 12}, lambda _: TileCount(0, 256)
    ),
}
_OF_MODEL: Final = {
    "internvl": "InternVLProcessor",
    "qianfan_ocr": "QianfanOCRProcessor",
    "aya_vision": "AyaVisionProcessor",
    "got_ocr2": "GotOcr2Processor",
}


def got_ocr2_recipe(config: Config, processor: str, choice: Choice) -> TileRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    owner = _owner(config)
    if owner is None:
        return _recipe(_GOT_OCR2, config, processor, choice, None)
    cutting = replace(config, values={**config.values, **owner.keys})
    return _recipe(_GOT_OCR2, cutting, processor, choice, owner.count(config.processor))


def _owner(config: Config) -> Owner | None:
    """The whole processor, as transformers finds it: by its name in either file, else by the model's type."""
    model = "" if config.model is None else str(config.model.raw("model_type"))
    return _OWNERS.get(config.whole_processor or str(_OF_MODEL.get(model)))


def cohere2_recipe(config: Config, processor: str, choice: Choice) -> TileRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    count = TileCount(2, 1 + config.integer("patch_size", 16) ** 2)
    config = replace(config, values={**config.values, "min_patches": 1})
    return _recipe(_COHERE2, config, processor, torchvision_only(config, processor, choice), count)


def _recipe(
    family: Family, config: Config, processor: str, choice: Choice, count: TileCount | None
) -> TileRecipe:
    tile = both_sides(config, "size", family.tile)
    least, most = config.integer("min_patches", 1), config.integer("max_patches", 12)
    check_canvas(config, "max_patches", tile, most)
    cuts = config.flag("crop_to_patches", family.cuts)
    if cuts and most == 1:
        # The PIL backend then does as without crop_to_patches, the torchvision backend resizes none the less.
        config.one_of("do_resize", True, (True,))
    resizes = cuts or config.flag("do_resize", True)
    shared = common(
        replace(config, values={**config.values, "do_resize": resizes}),
        processor,
        _DEFAULTS,
        choice,
        _KEYS | family.keys,
    )
    rule = Rule(family.choose, family.text, least, most) if cuts else None
    return TileRecipe(shared, tile if resizes else None, rule, count)


PROCESSORS: Final = {
    "GotOcr2ImageProcessor": got_ocr2_recipe,
    "Cohere2VisionImageProcessor": cohere2_recipe,
}
"""The classes of this family by name, each with what makes its recipe."""
