"""Gemma 3 (Gemma3ImageProcessor): stretched to a square, and, with pan and scan, pieces of a long picture too.

Pan and scan cuts a picture whose longer side is long enough beside the other into equal pieces along it, as many
as the ratio says, halves rounded up, within the least and the most; not where pieces would be too small. Whole
picture and pieces are resized to the same size.

Keys: `size` ({height, width}, [height, width] or one number for both); `do_pan_and_scan`, and for it
`pan_and_scan_min_ratio_to_activate`, `pan_and_scan_max_num_crops` and `pan_and_scan_min_crop_size`, the least side
of a piece in pixels, which where absent are as Gemma3Processor calls with; the rest as image.py says.

Outputs: `pixel_values`, float32 [3, height, width], with pan and scan [1 + pieces, 3, height, width];
`num_crops`, int64: the pieces. Tokens: `image_seq_length` (processor_config.json) for the picture and for each
piece; None where no file names Gemma3Processor, which puts them.
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
from sidecar.recipes.image import BILINEAR, HALF, PIXELS, Defaults, ImageRecipe, Plan, common
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.resize import FILTERS, MOST_RESIZED_BYTES, resize

_CROPS: Final = "num_crops"
_KEYS: Final = frozenset({
    "default_to_square", "do_center_crop", "do_pad", "do_pan_and_scan", "pan_and_scan_max_num_crops",
    "pan_and_scan_min_crop_size", "pan_and_scan_min_ratio_to_activate",
})  # fmt: skip
_DEFAULTS: Final = Defaults(BILINEAR, HALF, HALF, True)
_SIDE: Final = 224

# Whole processors that count so, and the tokens of a picture where they are not told.
_COUNTING: Final = frozenset({"Gemma3Processor", "ShieldGemma2Processor"})
_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class PanAndScan:
    """`ratio`: how many times the shorter side the longer one is at least; `side` in pixels."""

    side: int
    most: int
    ratio: float

    def pieces(self, size: Size) -> tuple[tuple[slice, slice], ...]:
        """Rows and columns of each piece; none where the picture is not cut. The last may be a little smaller.

        Raises CorruptMedia where one would be empty, which the reference cannot resize.
        """
        short, long = sorted(size)
        if long / short < self.ratio:
            return ()
        count = min(self.most, max(2, min(long // self.side, math.floor(long / short + 0.5))))
        length = -(-long // count)
        if min(length, short) < self.side:
            return ()
        if length * (count - 1) >= long:
            raise CorruptMedia(
                f"the picture is {size[1]}x{size[0]} (width x height), too small to be cut into {count} pieces:"
                " enlarge it before sending, or raise `pan_and_scan_min_crop_size`"
            )
        cuts = tuple(slice(at, min(at + length, long)) for at in range(0, length * count, length))
        whole = slice(0, short)
        return tuple((whole, cut) if size[1] >= size[0] else (cut, whole) for cut in cuts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3Plan(Plan):
    """`target` is the size after the resize, (height, width) in pixels; `pieces` are rows and columns."""

    target: Size
    pieces: tuple[tuple[slice, slice], ...]


@dataclass(frozen=True, slots=True)
class Gemma3Recipe(ImageRecipe[Gemma3Plan]):
    """The processor's numbers; see Recipe. None stands for a step that is not taken, and for tokens unknown."""

    size: Size | None
    pan: PanAndScan | None
    tokens_each: int | None

    @property
    def geometry(self) -> tuple[str, ...]:
        steps = []
        if self.pan is not None:
            steps.append(
                f"cut into 2 to {self.pan.most} pieces of at least {self.pan.side} a side beside the whole, where"
                f" the longer side is at least {self.pan.ratio} times the other"
            )
        if self.size is not None:
            steps.append(
                f"resize ({FILTERS[self.common.resample]}) to {self.size[0]}x{self.size[1]} (height x width), aspect"
                " ratio not kept"
            )
        return tuple(steps)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        shape = (3, *(self.size or (-1, -1)))
        pixels = TensorSpec(PIXELS, self.pixel_type, shape)
        if self.pan is not None:
            pixels = TensorSpec(PIXELS, self.pixel_type, (-1, *shape), rows=True)
        return pixels, TensorSpec(_CROPS, DataType.INT64, ())

    def plan(self, size: Size) -> Gemma3Plan:
        target, pieces = self.size or size, self.pan.pieces(size) if self.pan else ()
        rows = (1 + len(pieces),) if self.pan else ()
        return Gemma3Plan(
            shapes={PIXELS: (*rows, 3, *target), _CROPS: ()},
            tokens=self.tokens_each and self.tokens_each * (1 + len(pieces)),
            # Pieces are cut from the picture at its full size.
            resized=() if self.size is None or pieces else (target,),
            target=target,
            pieces=pieces,
        )

    def shape(self, frames: Pixels, plan: Gemma3Plan) -> tuple[Shaped, ...]:
        how = self.common.resample, self.common.reference
        pictures = [
            self.resized(frames, plan.target),
            *(resize(frames.array[rows, columns], plan.target, *how) for rows, columns in plan.pieces),
        ]
        parts = tuple(Looked(pixels.transpose(2, 0, 1), 0, self.table) for pixels in pictures)
        return (
            Shaped(PIXELS, plan.shapes[PIXELS], parts),
            Shaped.of(_CROPS, np.array(len(plan.pieces), np.int64)),
        )


def gemma3_recipe(config: Config, processor: str, choice: Choice) -> Gemma3Recipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    for key in ("do_center_crop", "do_pad"):
        config.one_of(key, False, (False,))
    pan = _pan(config) if config.flag("do_pan_and_scan", False) else None
    if pan is not None:
        config.one_of("do_resize", True, (True,))
    size = _size(config) if config.flag("do_resize", True) else None
    return Gemma3Recipe(common(config, processor, _DEFAULTS, choice, _KEYS), size, pan, _tokens(config))


def _tokens(config: Config) -> int | None:
    whole = config.processor or Config(config.source, {})
    if config.whole_processor not in _COUNTING:
        return None
    return whole.integer("image_seq_length", _TOKENS)


def _pan(config: Config) -> PanAndScan:
    return PanAndScan(
        side=config.integer("pan_and_scan_min_crop_size", 256),
        most=config.integer("pan_and_scan_max_num_crops", 4),
        ratio=config.positive("pan_and_scan_min_ratio_to_activate", 1.2),
    )


def _size(config: Config) -> Size:
    match config.raw("size"):
        case None:
            size = _SIDE, _SIDE
        case int(side) if is_count(side):
            size = side, side
        case [height, width] | {"height": height, "width": width} if is_count(height) and is_count(width):
            size = height, width
        case _:
            raise config.refusal(
                "size", "a whole number, [height, width] or {height, width}, each of at least 1"
            )
    if size[0] * size[1] * 4 > MOST_RESIZED_BYTES:
        raise config.refusal("size", f"at most {MOST_RESIZED_BYTES // 4} pixels in all")
    return size


PROCESSORS: Final = {"Gemma3ImageProcessor": gemma3_recipe}
"""The classes of this family by name, each with what makes its recipe."""
