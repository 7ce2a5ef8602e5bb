"""The checksums' formula, against the plainest way to compute it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from testbed.checksum import checksum, crc32


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_the_checksum_is_the_sum_and_the_weighted_sum_in_double_precision(dtype: type[np.generic]) -> None:
    array = np.random.default_rng(1).uniform(0, 255, (3, 5, 7)).astype(dtype)
    values = [float(x) for x in array.reshape(-1)]
    weighted = sum(x * ((i * 2654435761) % 2**32) / 2**32 for i, x in enumerate(values))
    assert checksum(array) == pytest.approx((sum(values), weighted), rel=1e-12)


def test_two_elements_that_changed_places_change_the_weighted_sum_alone() -> None:
    assert checksum(np.array([1.0, 2.0, 3.0]))[0] == checksum(np.array([1.0, 3.0, 2.0]))[0]
    assert checksum(np.array([1.0, 2.0, 3.0]))[1] != checksum(np.array([1.0, 3.0, 2.0]))[1]


def test_a_view_has_the_checksums_of_what_it_shows() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert checksum(array.T) == checksum(array.T.copy())
    assert crc32(array.T) == zlib.crc32(array.T.tobytes())
