"""An arena that must be as empty at a test's end as at its start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidecar.arena.arena import Arena
from tests.reuse.making import opened


@pytest.fixture
def arena() -> Iterator[Arena]:
    """64 slots of the smallest size. Fails a test that leaves one leased, or released once too often."""
    made = opened(64)
    yield made
    left = made.statistics()
    made.close()
    assert (left.leased, left.pinned, left.kept, left.misreleased_total) == (0, 0, 0, 0)
