"""Synthetic pictures, the same on every machine: what parity is judged on, with no file and no licence.

Integer arithmetic only, so that no library's version can change a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

# (height, width): every orientation, odd sides, single pixels, thinner and smaller than any crop, exactly
# a crop, one pixel off it, and large ones in both orientations.
SIZES: Final = (
    (1, 1), (1, 7), (9, 1), (3, 2), (31, 480), (480, 31), (97, 61), (61, 97), (100, 50), (20, 1000),
    (1000, 20), (224, 224), (225, 223), (223, 224), (224, 512), (512, 224), (336, 336), (337, 335),
    (333, 777), (777, 333), (384, 385), (480, 640), (640, 480), (1080, 1920), (1920, 1080), (1501, 2003),
)  # fmt: skip


def noise(height: int, width: int) -> Pixels:
    """The middle bits of a multiplicative hash: hard edges everywhere, every value in every channel."""
    index = np.arange(height * width * 3, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761)) ^ (index >> np.uint64(7))
    return ((mixed >> np.uint64(11)) & np.uint64(255)).astype(np.uint8).reshape(height, width, 3)


def ramp(height: int, width: int) -> Pixels:
    """Smooth slopes that differ by channel, over the whole range of values."""
    rows = (np.arange(height, dtype=np.int64) * 255 // max(1, height - 1))[:, np.newaxis]
    columns = (np.arange(width, dtype=np.int64) * 255 // max(1, width - 1))[np.newaxis, :]
    bands = (rows + 0 * columns, columns + 0 * rows, (rows + columns) // 2)
    return np.stack(bands, axis=-1).astype(np.uint8)


def blocks(height: int, width: int) -> Pixels:
    """A checkerboard of full black, full white and colour: overshoot, and so clipping, at every edge."""
    rows, columns = np.arange(height)[:, np.newaxis] // 7, np.arange(width)[np.newaxis, :] // 11
    bands = ((rows + columns) % 2 * 255, (rows + 2 * columns) % 3 * 127, (rows * columns) % 5 * 51)
    return np.stack([np.broadcast_to(band, (height, width)) for band in bands], axis=-1).astype(np.uint8)


KINDS: Final[dict[str, Callable[[int, int], Pixels]]] = {"noise": noise, "ramp": ramp, "blocks": blocks}


def pictures() -> Iterator[tuple[str, Pixels]]:
    """(name, uint8 [height, width, 3]), one a size, the kinds in turn."""
    makers = list(KINDS.items())
    for place, (height, width) in enumerate(SIZES):
        name, make = makers[place % len(makers)]
        yield f"{name} {width}x{height}", make(height, width)
