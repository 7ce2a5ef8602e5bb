"""Idefics3 and SmolVLM (Idefics3ImageProcessor, SmolVLMImageProcessor): the longest edge to a length, then a grid of
square tiles, and the whole picture beside them.

The longest edge becomes size.longest_edge and the other side follows, rounded down, then up to an even number; both
stay within 4096. That is resized once more, each side up to a multiple of max_image_size.longest_edge, and cut into
squares of it, row by row; where there are several, what they were cut from follows, resized to one square. Without
do_image_splitting the whole picture is one square.

Keys: `size` ({longest_edge}, or {height, width} for both sides), `max_image_size`, `do_image_splitting`, `do_pad` (the
mask; one picture alone needs no padding), `return_row_col_info`; `do_resize` leaves out the first resize only; the
rest as image.py says.

Outputs: `pixel_values`, float32 [squares, 3, side, side]; with do_pad `pixel_attention_mask`, int64 [squares, side,
side], all 1; with return_row_col_info `rows` and `cols`, int64 [1] each, the grid, 0 where nothing is cut.

Tokens, with everything that stands for the picture in the prompt: image_seq_len (of processor_config.json) + 3 for
the whole picture, and for each row of squares 1 + columns * (image_seq_len + 2). The two line breaks after the last
row count as one, which is how these models' tokenizers have them. Not known without processor_config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.media import DataType, Looked, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import HALF, LANCZOS, PIXELS, Defaults, ImageRecipe, Plan, common
from sidecar.recipes.tiles import Grid, check_canvas, in_tiles
from sidecar.stages.transform.geometry import Fixed, Size
from sidecar.stages.transform.resize import FILTERS, resize

_MASK: Final = "pixel_attention_mask"
_ROWS: Final = "rows"
_COLUMNS: Final = "cols"
_KEYS: Final = frozenset({"do_image_splitting", "do_pad", "max_image_size", "return_row_col_info"})
_DEFAULTS: Final = Defaults(LANCZOS, HALF, HALF, True)
_EDGE: Final = 4 * 364
_SIDE: Final = 364
# The processor's own bound of a side after the first resize.
_MOST_EDGE: Final = 4096
_PROCESSORS: Final = frozenset({"Idefics3Processor", "SmolVLMProcessor"})


@dataclass(frozen=True, slots=True)
class LongestEdge:
    """The longer side becomes `edge`, the other one an even number or that too; neither beyond 4096."""

    edge: int

    def __str__(self) -> str:
        return f"longest edge to {self.edge}, at most {_MOST_EDGE}, the other side even"


@dataclass(frozen=True, slots=True, kw_only=True)
class SquarePlan(Plan):
    """`steps` are the sizes after each resize; the last is cut into `grid`, which is (0, 0) for one square."""

    steps: tuple[Size, ...]
    grid: Grid


@dataclass(frozen=True, slots=True)
class SquareRecipe(ImageRecipe[SquarePlan]):
    """The processor's numbers; see Recipe.

    `rule`: of the first resize, None without; `length`: tokens of one square, None where not known.
    """

    rule: LongestEdge | Fixed | None
    side: int
    splits: bool
    masks: bool
    tells_grid: bool
    length: int | None

    @property
    def geometry(self) -> tuple[str, ...]:
        name, square = FILTERS[self.common.resample], f"{self.side}x{self.side}"
        first = () if self.rule is None else (f"resize ({name}) {self.rule}",)
        if not self.splits:
            return (*first, f"resize ({name}) to {square}, aspect ratio not kept")
        return (
            *first,
            f"resize ({name}) up to multiples of {self.side} a side, and cut into squares of {square}",
            f"more than one square: add what they were cut from, resized to {square}",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        square = (self.side, self.side)
        specs = [TensorSpec(PIXELS, self.pixel_type, (-1, 3, *square))]
        if self.masks:
            specs.append(TensorSpec(_MASK, DataType.INT64, (-1, *square)))
        if self.tells_grid:
            specs += [TensorSpec(name, DataType.INT64, (1,)) for name in (_ROWS, _COLUMNS)]
        return tuple(specs)

    def plan(self, size: Size) -> SquarePlan:
        square = (self.side, self.side)
        first = () if self.rule is None else (_first(size, self.rule),)
        last = _multiples(first[-1] if first else size, self.side) if self.splits else square
        grid = (0, 0) if last == square else (last[0] // self.side, last[1] // self.side)
        squares = grid[0] * grid[1] + 1
        steps = (*first, last)
        shapes = {
            PIXELS: (squares, 3, *square),
            _MASK: (squares, *square),
            _ROWS: (1,),
            _COLUMNS: (1,),
        }
        return SquarePlan(
            shapes={spec.name: shapes[spec.name] for spec in self.outputs},
            tokens=None if self.length is None else _tokens(self.length, grid),
            resized=steps if last == square else (*steps, square),
            steps=steps,
            grid=grid,
        )

    def shape(self, frames: Pixels, plan: SquarePlan) -> tuple[Shaped, ...]:
        pixels = self.resized(frames, plan.steps[0])
        for step in plan.steps[1:]:
            pixels = self._again(pixels, step)
        down, across = plan.grid
        parts = [Looked(in_tiles(pixels, (max(1, down), max(1, across))), 2, self.table)]
        if plan.grid != (0, 0):
            whole = self._again(pixels, (self.side, self.side))
            parts.append(Looked(whole.transpose(2, 0, 1), 0, self.table))
        shaped = [Shaped(PIXELS, plan.shapes[PIXELS], tuple(parts))]
        if self.masks:
            shaped.append(Shaped.of(_MASK, np.broadcast_to(np.int64(1), plan.shapes[_MASK])))
        if self.tells_grid:
            shaped.append(Shaped.of(_ROWS, np.array([down], np.int64)))
            shaped.append(Shaped.of(_COLUMNS, np.array([across], np.int64)))
        return tuple(shaped)

    def _again(self, pixels: npt.NDArray[np.uint8], target: Size) -> npt.NDArray[np.uint8]:
        return resize(pixels, target, self.common.resample, self.common.reference)


def _first(size: Size, rule: LongestEdge | Fixed) -> Size:
    """(height, width) after the first resize; no side becomes 0."""
    if isinstance(rule, Fixed):
        return rule.height, rule.width
    other = _other(size, rule.edge)
    size = _turned(size, rule.edge, max(1, other + other % 2))
    if max(size) > _MOST_EDGE:
        size = _turned(size, _MOST_EDGE, max(1, _other(size, _MOST_EDGE)))
    return size


def _multiples(size: Size, side: int) -> Size:
    """(height, width) after the second resize: the longer side up to a multiple of `side`, then the other.

    The reference lets the other side become 0 by its rounding, and then fails; here it is one square.
    """
    longest = -(-max(size) // side) * side
    return _turned(size, longest, -(-max(1, _other(size, longest)) // side) * side)


def _other(size: Size, longest: int) -> int:
    """The shorter side where the longer becomes `longest`, by the ratio in floating point, as the reference has it."""
    height, width = size
    ratio = width / height
    return int(longest / ratio if width >= height else longest * ratio)


def _turned(size: Size, longest: int, other: int) -> Size:
    """(height, width) of these two lengths, lying or upright as `size` is."""
    return (other, longest) if size[1] >= size[0] else (longest, other)


def _tokens(length: int, grid: Grid) -> int:
    """Around each square a mark before it, and its place; at each row's end a break, and a mark at the very end."""
    down, across = grid
    return down * (across * (length + 2) + 1) + length + 3


def square_recipe(config: Config, processor: str, choice: Choice) -> SquareRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    rule = _rule(config) if config.flag("do_resize", True) else None
    side = _side(config)
    check_canvas(config, "max_image_size", (side, side), 1)
    # All but the first resize are done whatever the key says.
    resizing = replace(config, values={**config.values, "do_resize": True})
    return SquareRecipe(
        common(resizing, processor, _DEFAULTS, choice, _KEYS),
        rule=rule,
        side=side,
        splits=config.flag("do_image_splitting", True),
        masks=config.flag("do_pad", True),
        tells_grid=config.flag("return_row_col_info", False),
        length=_length(config),
    )


def _rule(config: Config) -> LongestEdge | Fixed:
    match config.raw("size"):
        case None:
            return LongestEdge(_EDGE)
        case {"longest_edge": edge, **other} if not other and is_count(edge):
            return LongestEdge(edge)
        case {"height": height, "width": width, **other} if (
            not other and is_count(height) and is_count(width)
        ):
            check_canvas(config, "size", (height, width), 1)
            return Fixed(height, width)
    raise config.refusal("size", "{longest_edge} or {height, width}, each of at least 1")


def _side(config: Config) -> int:
    match config.raw("max_image_size"):
        case None:
            return _SIDE
        case {"longest_edge": edge, **other} if not other and is_count(edge):
            return edge
    raise config.refusal("max_image_size", "{longest_edge}, of at least 1")


def _length(config: Config) -> int | None:
    """Tokens of one square; None where another whole processor is named, or no file has the number."""
    whole = config.processor
    if whole is None:
        return None
    name = config.whole_processor or "Idefics3Processor"
    return whole.integer("image_seq_len", 169) if name in _PROCESSORS else None


PROCESSORS: Final = {
    "Idefics3ImageProcessor": square_recipe,
    "SmolVLMImageProcessor": square_recipe,
}
"""The classes of this family by name, each with what makes its recipe."""
