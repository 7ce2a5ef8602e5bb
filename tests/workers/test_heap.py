"""What lives to the end is kept, and the collector passes over it."""

from __future__ import annotations

import gc

from sidecar.workers.heap import keep_blocks, keep_objects


def test_the_c_library_takes_the_settings() -> None:
    assert keep_blocks()


def test_the_collector_passes_over_what_is_there_and_still_collects_what_comes() -> None:
    class Knot:
        me: Knot

    try:
        keep_objects()
        assert gc.get_freeze_count() > 1000
        knot = Knot()
        knot.me = knot
        del knot
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
