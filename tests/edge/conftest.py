"""Sidecars with settings of their own, beside the session's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running import Running, running

CLIP = {"clip": "clip-vit-base-patch32"}


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """One that takes small pictures only."""
    with running({"small": CLIP["clip"]}, None, "limits.image_side=100") as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def tight() -> Iterator[Running]:
    """One with a short queue and one thread."""
    with running(CLIP, None, "gate.max_queued=4", "threads.image=1") as sidecar:
        yield sidecar
