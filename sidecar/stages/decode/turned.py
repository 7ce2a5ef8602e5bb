"""EXIF's orientations as views, for the decoders past Pillow: turning copies no pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.uint8]

_TURNS: Final[dict[int, Callable[[_Array], _Array]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


def upright(stored: _Array, orientation: int) -> _Array:
    """A picture, uint8 [height, width, 3], as its orientation (1 to 8) wants it seen: a view of it."""
    turn = _TURNS.get(orientation)
    return stored if turn is None else turn(stored)
