"""Times add up: the stages plus the gap equal the total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe.timings import Stage, Timeline, Timings


@given(st.dictionaries(st.sampled_from(Stage), st.integers(0, 10**12)), st.integers(0, 10**13))
def test_stages_plus_gap_equal_the_total(stages: dict[Stage, int], total: int) -> None:
    timings = Timings(stages, total)
    assert sum(timings.stages.values()) + timings.gap_ns == timings.total_ns


def test_measured_stages_leave_a_gap_that_is_not_negative() -> None:
    timeline = Timeline()
    for stage in Stage:
        with timeline.measure(stage):
            pass
    assert timeline.snapshot().gap_ns >= 0


def test_a_stage_that_raises_is_counted_too() -> None:
    timeline = Timeline()
    with pytest.raises(KeyError), timeline.measure(Stage.DECODE):
        raise KeyError
    assert timeline.snapshot().stages[Stage.DECODE] > 0


def test_a_stage_met_twice_is_summed() -> None:
    timeline = Timeline()
    timeline.add(Stage.DECODE, 0, 5)
    timeline.include([(Stage.DECODE, 5, 12), (Stage.PACK, 12, 13)])
    assert timeline.snapshot().stages == {Stage.DECODE: 12, Stage.PACK: 1}


def test_marks_are_kept_one_by_one_up_to_a_bound_and_sums_of_all() -> None:
    timeline = Timeline()
    for moment in range(1000):
        timeline.add(Stage.DELIVER, moment, moment + 1)
    assert timeline.marks[0] == (Stage.DELIVER, 0, 1)
    assert len(timeline.marks) < 100
    assert timeline.snapshot().stages == {Stage.DELIVER: 1000}


def test_a_snapshot_does_not_move_any_more() -> None:
    timeline = Timeline()
    timeline.add(Stage.PROBE, 0, 1)
    snapshot = timeline.snapshot()
    timeline.add(Stage.PROBE, 1, 2)
    assert snapshot.stages == {Stage.PROBE: 1}
