"""LLaVA-NeXT and LLaVA-OneVision (anyres): the whole picture as one tile, then tiles of it at a resolution of a list.

Of the resolutions the one is taken at which most of the picture's pixels are left, and of equals the one with
least room for anything else. The picture is resized to fit in it, put in its middle on black, and cut row by row
into squares of the crop's height (else of the size's). In front of them comes the whole picture, resized to
`size` with its aspect ratio lost. Each of these tiles is then resized to `size` and centre cropped, which
changes nothing where the list holds multiples of it, as published ones do. Of several pictures in one prompt
LLaVA-OneVision cuts none; here each is cut, as the only one of a prompt is.

Keys: `image_grid_pinpoints`, [height, width] each; `size`, {height, width} or {shortest_edge}, which is a square;
`crop_size`, `do_center_crop`; the rest as image.py says. `do_pad` fills up a batch's other pictures with tiles,
and matters to none; `do_resize` must be true, since the resizes before the cut take no notice of it.

Outputs: `pixel_values`, float32 [1 + tiles, 3, height, width]; `image_sizes`, int64 [2]: the picture's height and
width; LLaVA-OneVision's `batch_num_images`, int64 []: 1.

Tokens: a tile's patches, then those of the whole resolution less the rows or columns of nothing but black, and
one for each row of these. From processor_config.json: `patch_size`, `num_additional_image_tokens` (for the first
tile), and Granite 4's `downsample_rate`; LLaVA-OneVision's are `num_image_tokens` (a tile's) and
`vision_aspect_ratio`, which holds at most how many tiles' patches are left; one token less where
`vision_feature_select_strategy` is "default". None where they are not given, or the processor is of another name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import (
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    PIXELS,
    Defaults,
    ImageRecipe,
    Plan,
    common,
)
from sidecar.recipes.tiles import MOST_TILES
from sidecar.stages.transform.geometry import Crop, Fixed, ShortestEdge, Size, Span, center_crop, resized
from sidecar.stages.transform.resize import FILTERS, MOST_RESIZED_BYTES, resize

_SIZES: Final = "image_sizes"
_IMAGES: Final = "batch_num_images"
_PINPOINTS: Final = "image_grid_pinpoints"
_KEYS: Final = frozenset({
    "crop_size", "default_to_square", "do_center_crop", "do_pad", "image_grid_pinpoints", "pad_size",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Count:
    """What tokens are counted by.

    `grid` are a tile's patches down and across, `base` the tokens of the first tile and what is added to them;
    `most`, where it is set, holds how many tiles' patches may be left of the others.
    """

    grid: Size
    base: int
    most: int | None = None

    def tokens(self, size: Size, tiles: Size) -> int:
        """For a picture of `size` (height, width) on so many whole tiles down and across.

        In Python's floats and the reference's order, because the results are truncated.
        """
        height, width = size
        down, across = self.grid[0] * tiles[0], self.grid[1] * tiles[1]
        if width / height > across / down:
            down -= (down - int(round(height * (across / width), 7))) // 2 * 2
        else:
            across -= (across - int(round(width * (down / height), 7))) // 2 * 2
        if self.most is not None:
            ratio = math.sqrt(down * across / (self.most * self.grid[0] ** 2))
            if ratio > 1.1:  # noqa: PLR2004 - the reference's: it leaves what passes the bound by little
                down, across = int(down // ratio), int(across // ratio)
        return down * across + down + self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyresDefaults(Defaults):
    """Also the size, the crop and the list; whether the number of pictures is an output (`many`); and what reads
    how tokens are counted from the processor's keys, for tiles of a size.
    """

    size: Fixed | ShortestEdge
    crop: Size | None
    pinpoints: tuple[Size, ...]
    many: bool
    count: Callable[[Config, Size], Count | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyresPlan(Plan):
    """`size` is the picture's own, (height, width) in pixels, and `target` that of the resize before the cut;
    `place` is where that lies on the black of the chosen resolution.
    """

    size: Size
    target: Size
    place: Crop


@dataclass(frozen=True, slots=True)
class AnyresRecipe(ImageRecipe[AnyresPlan]):
    """The processor's numbers; see Recipe.

    `cut` is the side of a tile as it is cut. None stands for a crop that is not taken, and for a count of tokens
    that the files do not tell.
    """

    pinpoints: tuple[Size, ...]
    rule: Fixed | ShortestEdge
    crop: Size | None
    cut: int
    many: bool
    count: Count | None

    @property
    def geometry(self) -> tuple[str, ...]:
        name, (height, width) = FILTERS[self.common.resample], _whole(self.rule)
        crop = () if self.crop is None else (f"centre crop each to {self.crop[0]}x{self.crop[1]}",)
        return (
            f"resize ({name}) to fit in the best of {len(self.pinpoints)} resolutions, with black around it",
            f"cut into tiles of {self.cut}x{self.cut}",
            f"in front of them, the whole picture resized ({name}) to {height}x{width} (height x width)",
            f"resize each ({name}) {self.rule}",
            *crop,
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        many = (TensorSpec(_IMAGES, DataType.INT64, ()),) if self.many else ()
        return (
            TensorSpec(PIXELS, self.pixel_type, (-1, 3, *self._tile)),
            TensorSpec(_SIZES, DataType.INT64, (2,)),
            *many,
        )

    @property
    def _tile(self) -> Size:
        """(height, width) of every tile, finished."""
        return self.crop or _whole(self.rule)

    def plan(self, size: Size) -> AnyresPlan:
        best = best_resolution(size, self.pinpoints)
        target = fitted(size, best)
        tiles = math.prod(math.ceil(length / self.cut) for length in best)
        counted = best[0] // self._tile[0], best[1] // self._tile[1]
        return AnyresPlan(
            shapes={PIXELS: (1 + tiles, 3, *self._tile), _SIZES: (2,)} | ({_IMAGES: ()} if self.many else {}),
            tokens=None if self.count is None or 0 in counted else self.count.tokens(size, counted),
            resized=(_whole(self.rule), target),
            size=size,
            target=target,
            place=Crop(best, _middle(target[0], best[0]), _middle(target[1], best[1])),
        )

    def shape(self, frames: Pixels, plan: AnyresPlan) -> tuple[Shaped, ...]:
        canvas = self.resized(frames, plan.target, plan.place)
        corners = product(*(range(0, length, self.cut) for length in plan.place.size))
        cut = (canvas[top : top + self.cut, left : left + self.cut] for top, left in corners)
        tiles = [self._finished(tile) for tile in (self.resized(frames, _whole(self.rule)), *cut)]
        parts = tuple(Looked(tile.transpose(2, 0, 1), 0, self.table) for tile in tiles)
        many = (Shaped.of(_IMAGES, np.array(1, np.int64)),) if self.many else ()
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], parts),
            Shaped.of(_SIZES, np.array(plan.size, np.int64)),
            *many,
        )

    def _finished(self, tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A tile resized and cropped: a view, where it has its size already."""
        target, reference = resized((tile.shape[0], tile.shape[1]), self.rule), self.common.reference
        crop = None if target == self._tile else center_crop(target, self._tile, reference)
        return resize(tile, target, self.common.resample, reference, crop)


def best_resolution(size: Size, pinpoints: Iterable[Size]) -> Size:
    """The (height, width) that keeps most of a picture's pixels; of equals the smallest, then the first."""
    return max(pinpoints, key=partial(_worth, size))


def _worth(size: Size, resolution: Size) -> tuple[int, int]:
    """The more the better: how many of a picture's pixels a resolution has room for, then how little besides."""
    height, width = size
    scale = min(resolution[1] / width, resolution[0] / height)
    kept = min(int(width * scale) * int(height * scale), width * height)
    return kept, kept - resolution[0] * resolution[1]


def fitted(size: Size, box: Size) -> Size:
    """The largest (height, width) of a picture's aspect ratio in a box; the shorter side rounded up."""
    height, width = size
    across, down = box[1] / width, box[0] / height
    if across < down:
        return min(math.ceil(height * across), box[0]), box[1]
    return box[0], min(math.ceil(width * down), box[1])


def _middle(length: int, canvas: int) -> Span:
    return Span(0, length, (canvas - length) // 2)


def _whole(rule: Fixed | ShortestEdge) -> Size:
    """What the whole picture is resized to, its aspect ratio lost."""
    match rule:
        case Fixed(height, width):
            return height, width
        case ShortestEdge(edge):
            return edge, edge


def anyres_recipe(defaults: AnyresDefaults, config: Config, processor: str, choice: Choice) -> AnyresRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("do_resize", True, (True,))
    rule, cut_by = _rule(config, defaults), _crop(config, defaults)
    crop = cut_by if config.flag("do_center_crop", defaults.crop is not None) else None
    tile, cut = crop or _whole(rule), (cut_by or _whole(rule))[0]
    pinpoints = _pinpoints(config, defaults)
    if any(math.ceil(height / cut) * math.ceil(width / cut) > MOST_TILES for height, width in pinpoints):
        raise config.refusal(_PINPOINTS, f"at most {MOST_TILES} tiles of {cut}x{cut} each")
    for size in _cuts(pinpoints, cut):
        target = resized(size, rule)
        if math.prod(target) * 4 > MOST_RESIZED_BYTES or (crop is None and target != tile):
            raise config.refusal(
                _PINPOINTS,
                f"multiples of {cut} a side: a tile of {size[0]}x{size[1]} (height x width), as is cut off"
                " otherwise, cannot be brought to the size of the others",
            )
    return AnyresRecipe(
        common(config, processor, defaults, choice, _KEYS),
        pinpoints=pinpoints,
        rule=rule,
        crop=crop,
        cut=cut,
        many=defaults.many,
        count=None if config.processor is None else defaults.count(config.processor, tile),
    )


def _cuts(pinpoints: Iterable[Size], cut: int) -> Iterator[Size]:
    """Every size of a tile as it is cut."""
    for height, width in pinpoints:
        yield from product({min(cut, height), height % cut or cut}, {min(cut, width), width % cut or cut})


def _rule(config: Config, defaults: AnyresDefaults) -> Fixed | ShortestEdge:
    """`size`: a number, {shortest_edge}, [height, width] or {height, width}."""
    value, allowed = config.raw("size"), "a whole number, {shortest_edge}, [height, width] or {height, width}"
    match value:
        case None:
            return defaults.size
        case {"shortest_edge": edge, **others} if not others:
            return ShortestEdge(_size(config, "size", (edge, edge), allowed)[0])
        case int():
            edge, _ = _size(config, "size", (value, value), allowed)
            return Fixed(edge, edge) if config.flag("default_to_square", False) else ShortestEdge(edge)
        case [height, width]:
            return Fixed(*_size(config, "size", (height, width), allowed))
        case {"height": height, "width": width, **others} if not others:
            return Fixed(*_size(config, "size", (height, width), allowed))
    raise config.refusal("size", allowed)


def _crop(config: Config, defaults: AnyresDefaults) -> Size | None:
    """`crop_size`: a number for both sides, [height, width] or {height, width}; None where nothing sets it."""
    value, allowed = config.raw("crop_size"), "a whole number, [height, width] or {height, width}"
    match value:
        case None if defaults.crop is not None or not config.flag("do_center_crop", False):
            return defaults.crop
        case [height, width] | {"height": height, "width": width}:
            return _size(config, "crop_size", (height, width), allowed)
    return _size(config, "crop_size", (value, value), allowed)


def _pinpoints(config: Config, defaults: AnyresDefaults) -> tuple[Size, ...]:
    value, allowed = config.raw(_PINPOINTS), "a list of resolutions, [height, width] each"
    if value is None:
        return defaults.pinpoints
    if not isinstance(value, list) or not value:
        raise config.refusal(_PINPOINTS, allowed)
    return tuple(_size(config, _PINPOINTS, pair, allowed) for pair in value)


def _size(config: Config, key: str, value: object, allowed: str) -> Size:
    match value:
        case [height, width] if is_count(height) and is_count(width):
            if height * width * 4 <= MOST_RESIZED_BYTES:
                return height, width
    raise config.refusal(
        key, f"{allowed}, each side at least 1 and at most {MOST_RESIZED_BYTES // 4} pixels in all"
    )


def _patch_count(config: Config, tile: Size) -> Count | None:
    """LLaVA-NeXT's: patches follow from the tile's size."""
    name = config.whole_processor or None
    if name not in _BY_PATCH or config.raw("patch_size") is None:
        return None
    patch = config.integer("patch_size", 1)
    rate = _rate(config) if name == _GRANITE else Fraction(1)
    down, across = (int(length // patch * rate) for length in tile)
    extra = config.integer("num_additional_image_tokens", 0, least=0)
    return Count((down, across), down * across + extra - _dropped(config)) if down and across else None


def _rate(config: Config) -> Fraction:
    value = config.raw("downsample_rate")
    match value:
        case None:
            return Fraction(1)
        case str() if re.fullmatch(r"[0-9]{1,6}/[1-9][0-9]{0,5}", value):
            return Fraction(value)
    raise config.refusal("downsample_rate", 'a fraction, such as "1/4"')


def _token_count(config: Config, _: Size) -> Count | None:
    """LLaVA-OneVision's: a tile's tokens are told, and are a square of patches."""
    name = config.whole_processor or None
    if name not in _BY_TOKENS or config.raw("num_image_tokens") is None:
        return None
    tokens = config.integer("num_image_tokens", 1)
    ratio = config.raw("vision_aspect_ratio")
    most = re.fullmatch(r"anyres_max_([1-9][0-9]{0,5})", "anyres_max_9" if ratio is None else str(ratio))
    if most is None:
        raise config.refusal("vision_aspect_ratio", "anyres_max_ and a number of tiles")
    side = math.isqrt(tokens)
    return Count((side, side), tokens - _dropped(config), int(most[1]))


def _dropped(config: Config) -> int:
    """The class token, which the default strategy leaves out."""
    return int(config.raw("vision_feature_select_strategy") == "default")


_GRANITE: Final = "Granite4VisionProcessor"
_BY_PATCH: Final = frozenset({None, "LlavaNextProcessor", "LlavaNextVideoProcessor", _GRANITE})
_BY_TOKENS: Final = frozenset({None, "LlavaOnevisionProcessor"})

NEXT: Final = AnyresDefaults(
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    converts_rgb=True,
    size=ShortestEdge(224),
    crop=(224, 224),
    pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)),
    many=False,
    count=_patch_count,
)
ONEVISION: Final = AnyresDefaults(
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    converts_rgb=True,
    size=Fixed(384, 384),
    crop=None,
    pinpoints=tuple(product(range(384, 2305, 384), range(384, 2305, 384))),
    many=True,
    count=_token_count,
)

PROCESSORS: Final = {
    "LlavaNextImageProcessor": partial(anyres_recipe, NEXT),
    "LlavaOnevisionImageProcessor": partial(anyres_recipe, ONEVISION),
}
"""The classes of this family by name, each with what makes its recipe."""
