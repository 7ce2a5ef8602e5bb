"""Phi-4-multimodal (dynamic HD): the picture on a canvas of whole crops, cut, with the canvas made small in front.

The canvas has as many crops of `size` down and across as the picture has such lengths, begun ones counted; where
these are more than `dynamic_hd`, the grid of at most that many whose aspect ratio is nearest, and of grids of one
ratio the largest that the picture has more than half the pixels of. The picture is resized to fit, bilinear
whatever `resample` says, to the canvas's upper left corner; the rest is white. The canvas is normalised, and
then made one crop's size by a bicubic filter of four samples an axis that knows no smoothing.
A picture that would be less than 10 pixels high or wide is refused, as by the processor.

Keys: `size`, a square; `patch_size`; `dynamic_hd`; the rest as image.py says. `resample` must be bicubic and
`do_resize` true; pixels must be rescaled or normalised.

Outputs: `image_pixel_values`, float32 [1 + crops, 3, height, width], the small canvas first, and no bytes, since
that one's values lie between those of bytes; `image_sizes`, int64 [2]: the canvas's height and width;
`image_attention_mask`, float32 [1 + crops, patches down, patches across]: 0 for patches of nothing but white;
`num_img_tokens`, int64 []: the tokens.

Tokens: 256 + 1 + 16 for the small canvas, its rows' ends and a separator; of the crops' patches that are not all
white every second one down and across, and one for each row of these. It exists for the torchvision backend alone.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, Looked, Part, Pixels, Shaped, TensorSpec
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config, is_count
from sidecar.recipes.image import (
    BICUBIC,
    BILINEAR,
    COUNTS,
    HALF,
    VALUES,
    Defaults,
    ImageRecipe,
    Plan,
    common,
    torchvision_only,
)
from sidecar.recipes.tiles import MOST_TILES
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.normalize import Table
from sidecar.stages.transform.resize import MOST_RESIZED_BYTES

_PIXELS: Final = "image_pixel_values"
_SIZES: Final = "image_sizes"
_MASK: Final = "image_attention_mask"
_TOKENS: Final = "num_img_tokens"
_KEYS: Final = frozenset({"dynamic_hd", "patch_size"})
_DEFAULTS: Final = Defaults(BICUBIC, HALF, HALF, True)
_FLOATS: Final = VALUES - {DataType.UINT8}
# The processor's own: it counts so whatever its size and patches are.
_OVERHEAD: Final = 256 + 1 + 16
_LEAST_SIDE: Final = 10
_WHITE: Final = 255
# Of a bicubic filter (-0.75) half way between two of its four samples, where all samples of an even factor lie.
_OUTER: Final = np.float32(-0.09375)
_INNER: Final = np.float32(0.59375)


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPlan(Plan):
    """`grid` are the crops down and across, `target` the size after the resize, (height, width) in pixels, and
    `seen` how many patches of the canvas, down and across, are not all white.
    """

    grid: Size
    target: Size
    seen: Size
    count: int


@dataclass(frozen=True, slots=True)
class CropRecipe(ImageRecipe[CropPlan]):
    """The processor's numbers; see Recipe. `edge` is a crop's side in pixels; `most` crops there are at most."""

    edge: int
    patch: int
    most: int

    @property
    def geometry(self) -> tuple[str, ...]:
        square = f"{self.edge}x{self.edge}"
        return (
            f"resize (bilinear) to fit on up to {self.most} crops of {square}, white to the right or below",
            f"in front of them, all of it made {square} (bicubic, not smoothed, of values)",
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(_PIXELS, DataType.FP32, (-1, 3, self.edge, self.edge)),
            TensorSpec(_SIZES, DataType.INT64, (2,)),
            TensorSpec(_MASK, DataType.FP32, (-1, self._side, self._side)),
            TensorSpec(_TOKENS, DataType.INT64, ()),
        )

    @property
    def _side(self) -> int:
        """Patches of a crop, a side."""
        return self.edge // self.patch

    def accepts(self, output: str, data_type: DataType) -> bool:
        """No bytes: those of the small canvas would have to be normalised before they are filtered."""
        return data_type in {_PIXELS: _FLOATS, _MASK: _FLOATS | COUNTS}.get(output, COUNTS)

    def plan(self, size: Size) -> CropPlan:
        grid = crop_grid(size, self.edge, self.most)
        canvas = grid[0] * self.edge, grid[1] * self.edge
        target = _fitted(size, canvas)
        if min(target) < _LEAST_SIDE:
            raise CorruptMedia(
                f"the picture is {size[1]}x{size[0]} (width x height), {target[1]}x{target[0]} when resized, and"
                f" {self.processor} takes {_LEAST_SIDE} pixels a side: crop it before sending"
            )
        rows, columns = (
            max(0, crops * self._side - (whole - filled) // self.patch)
            for crops, whole, filled in zip(grid, canvas, target, strict=True)
        )
        down, across = self._counted(rows), self._counted(columns)
        tokens, crops = _OVERHEAD + down * across + (down if across else 0), 1 + grid[0] * grid[1]
        return CropPlan(
            shapes={
                _PIXELS: (crops, 3, self.edge, self.edge),
                _SIZES: (2,),
                _MASK: (crops, self._side, self._side),
                _TOKENS: (),
            },
            tokens=tokens,
            resized=(target,),
            grid=grid,
            target=target,
            seen=(rows, columns),
            count=tokens,
        )

    def _counted(self, seen: int) -> int:
        """Every second of so many patches in a row; of each crop the first is counted."""
        crops, rest = divmod(seen, self._side)
        return crops * math.ceil(self._side / 2) + math.ceil(rest / 2)

    def shape(self, frames: Pixels, plan: CropPlan) -> tuple[Shaped, ...]:
        canvas = self._canvas(frames, plan)
        height, width, _ = canvas.shape
        (down, across), s, side = plan.grid, self.edge, self._side
        crops = canvas.reshape(down, s, across, s, 3).transpose(0, 2, 4, 1, 3)
        mask = np.zeros((down * side, across * side), np.float32)
        mask[: plan.seen[0], : plan.seen[1]] = 1
        return (
            Shaped(
                _PIXELS, plan.shapes[_PIXELS], (small(canvas, s, self.table), Looked(crops, 2, self.table))
            ),
            Shaped.of(_SIZES, np.array((height, width), np.int64)),
            Shaped(
                _MASK,
                plan.shapes[_MASK],
                (
                    np.ones((side, side), np.float32),
                    mask.reshape(down, side, across, side).transpose(0, 2, 1, 3),
                ),
            ),
            Shaped.of(_TOKENS, np.array(plan.count, np.int64)),
        )

    def _canvas(self, frames: Pixels, plan: CropPlan) -> npt.NDArray[np.uint8]:
        """The picture resized, on white."""
        (height, width), (down, across) = plan.target, plan.grid
        size = down * self.edge, across * self.edge
        if plan.target == size:
            return self.resized(frames, size)
        canvas = np.full((*size, 3), _WHITE, np.uint8)
        self.fill(canvas[:height, :width], frames)
        return canvas


def crop_grid(size: Size, edge: int, most: int) -> Size:
    """(down, across): how many crops of `edge` x `edge` pixels a picture of (height, width) is put on."""
    height, width = size
    down, across = math.ceil(height / edge), math.ceil(width / edge)
    if down * across <= most:
        return down, across
    ratio, area = width / height, width * height
    best, least = (1, 1), math.inf
    for grid in _grids(most):
        off = abs(ratio - grid[1] / grid[0])
        if off < least:
            best, least = grid, off
        elif off == least and area > 0.5 * edge * edge * grid[0] * grid[1]:
            best = grid
    return best


@functools.lru_cache(maxsize=16)
def _grids(most: int) -> tuple[Size, ...]:
    """Every (down, across) of at most so many crops, the fewest crops first."""
    grids = ((down, across) for down in range(1, most + 1) for across in range(1, most // down + 1))
    return tuple(sorted(grids, key=math.prod))


def _fitted(size: Size, canvas: Size) -> Size:
    height, width = size
    down, across = canvas[0] / height, canvas[1] / width
    return (int(height * across), canvas[1]) if across < down else (canvas[0], int(width * down))


def small(canvas: npt.NDArray[np.uint8], edge: int, table: Table) -> Part:
    """A canvas of whole crops made one crop's size, [3, edge, edge], as torch's bicubic does without antialiasing.

    By an odd factor every sample of the result lies on one of the canvas, which is it: a view tells that. By an
    even one it lies half way between two, and is made of values, along each row first.
    """
    height, width, _ = canvas.shape
    down, across = _taps(height, edge), _taps(width, edge)
    if len(down) == len(across) == 1:
        (top,), (left,) = down, across
        view = canvas[int(top[0]) :: height // edge, int(left[0]) :: width // edge]
        return Looked(view.transpose(2, 0, 1), 0, table)
    out = np.empty((3, edge, edge), np.float32)
    for channel, values in enumerate(table):
        lines = (canvas[:, :, channel][row] for row in down)
        # Taken, since numpy's indexing by bytes is twice as slow.
        rows = [_blended([np.take(values, line[:, column]) for column in across]) for line in lines]
        out[channel] = _blended(rows)
    return out


def _taps(length: int, edge: int) -> list[npt.NDArray[np.int64]]:
    """Which samples of an axis each of `edge` results is made of: one of them, or four; those outside are the
    outermost.
    """
    factor = length // edge
    first = np.arange(edge, dtype=np.int64) * factor + (factor - 1) // 2
    return [np.clip(first + step, 0, length - 1) for step in ((0,) if factor % 2 else (-1, 0, 1, 2))]


def _blended(taps: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The one sample, or four weighted and added up as torch's compiled loop does: each product is added
    unrounded, but for the second, which the first is added to.

    float64 holds such a product and its sum exactly, since the weights have five bits.
    """
    if len(taps) == 1:
        return taps[0]
    first, second, *others = taps
    total = _added(first, _OUTER, second * _INNER)
    for tap, weight in zip(others, (_INNER, _OUTER), strict=True):
        total = _added(tap, weight, total)
    return total


def _added(
    values: npt.NDArray[np.float32], weight: np.float32, to: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    product = np.multiply(values, weight, dtype=np.float64)
    product += to
    return product.astype(np.float32)


def crop_recipe(config: Config, processor: str, choice: Choice) -> CropRecipe:
    """The recipe that a processor's keys describe. Raises RecipeError; see Config and `common`."""
    config.one_of("do_resize", True, (True,))
    config.one_of("resample", BICUBIC, (BICUBIC,))
    edge, most = _edge(config), config.integer("dynamic_hd", 36, most=MOST_TILES)
    if edge * edge * most * 4 > MOST_RESIZED_BYTES:
        raise config.refusal(
            "dynamic_hd",
            f"so few that crops of {edge}x{edge} have at most {MOST_RESIZED_BYTES // 4} pixels in all",
        )
    patch = config.integer("patch_size", 14)
    if patch > edge:
        raise config.refusal("patch_size", f"at most {edge}, the side of a crop")
    found = common(config, processor, _DEFAULTS, torchvision_only(config, processor, choice), _KEYS)
    if not found.normalization.changes_bytes:
        raise config.refusal("do_rescale", "true, or `do_normalize`: bare bytes are filtered in another way")
    return CropRecipe(replace(found, resample=BILINEAR), edge=edge, patch=patch, most=most)


def _edge(config: Config) -> int:
    match config.raw("size"):
        case None:
            return 448
        case int(edge) | [edge, _] | {"height": edge} if is_count(edge):
            square = ([edge, edge], {"height": edge, "width": edge}, edge)
            if config.raw("size") in square:
                return edge
    raise config.refusal("size", "a whole number, or height and width that are the same, of at least 1")


PROCESSORS: Final = {"Phi4MultimodalImageProcessor": crop_recipe}
"""The classes of this family by name, each with what makes its recipe."""
