"""The numbers the checksum models answer with, for the models and for whoever checks their answers.

`crc32` proves that every byte arrived. `checksum` says by how much an answer is off where bytes
differ, and its weighted half also sees elements that changed places. Imports numpy alone: this file
runs in the models' interpreter and in the tests'.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np
from numpy.typing import NDArray

# Knuth's multiplicative constant (2^32 divided by the golden ratio): spreads weights over [0, 1).
MULTIPLIER = 2654435761


def checksum(array: NDArray[np.generic]) -> tuple[float, float]:
    """(sum of x, sum of x_i * w_i) in float64, w_i = ((i * MULTIPLIER) mod 2^32) / 2^32.

    `i` counts the elements in row-major order from 0. The order of summation is numpy's, so compare
    answers of different numpy releases within some 1e-9 of the sum of magnitudes, not bit for bit.
    """
    values = np.ravel(array).astype(np.float64)
    return float(values.sum()), float((values * _weights(values.size)).sum())


def crc32(array: NDArray[np.generic]) -> int:
    """CRC-32 (zlib's) of the array's bytes in row-major order, little-endian as Triton sends them."""
    return zlib.crc32(np.ascontiguousarray(array).data)


@functools.lru_cache(maxsize=4)
def _weights(count: int) -> NDArray[np.float64]:
    product = np.arange(count, dtype=np.uint64) * np.uint64(MULTIPLIER)
    return (product % np.uint64(2**32)).astype(np.float64) / 2**32
