"""What recipes share that cut a picture into patches and fill up to a budget of them. Nothing here chooses a size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.errors import CorruptMedia
from sidecar.media import Blank, Looked, Shaped
from sidecar.recipes.image import PIXELS, Plan
from sidecar.stages.transform.geometry import Size
from sidecar.stages.transform.normalize import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPlan(Plan):
    """`target` is the size after the resize, (height, width) in pixels; `grid` its patches down and across."""

    target: Size
    grid: Size


def grid_of(target: Size, patch: int, most: int, processor: str) -> Size:
    """Patches down and across. Raises CorruptMedia where they are no whole ones, or more than `most`."""
    height, width = target
    if height % patch or width % patch or height * width > most * patch**2:
        raise CorruptMedia(
            f"the picture is {width}x{height} (width x height), and {processor} takes multiples of {patch} a side, at"
            f" most {most} patches of it: resize it before sending, or set `do_resize`"
        )
    return height // patch, width // patch


def filled_patches(pixels: npt.NDArray[np.uint8], patch: int, most: int, table: Table) -> Shaped:
    """The pixels as `most` patches of [row, column, channel], row by row, the missing ones zeros."""
    height, width, _ = pixels.shape
    cut = pixels.reshape(height // patch, patch, width // patch, patch, 3).transpose(0, 2, 1, 3, 4)
    length = 3 * patch**2
    return Shaped(PIXELS, (most, length), (Looked(cut, 4, table), Blank(most * length - cut.size)))
