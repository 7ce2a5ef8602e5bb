"""What was true of an episode, from the records of those who were there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bench.episodes.truth import Truth, truth


def moments(*rows: Sequence[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(rows, np.int64).reshape(len(rows), -1) if rows else np.empty((0, 2), np.int64)


def found(
    executions: Sequence[Sequence[int]],
    accepted: Sequence[Sequence[int]],
    calls: Sequence[Sequence[int]],
    held: int = 0,
) -> Truth:
    told = moments(*executions) if executions else np.empty((0, 3), np.int64)
    return truth(0, 1000, told, moments(*accepted), moments(*calls), held)


def test_nobody_there_is_no_demand() -> None:
    assert found([], [], []) == Truth(0.0, 0.0, 0.0, 1.0)


def test_a_call_is_starved_until_it_is_read_waits_until_it_runs_and_is_busy_then() -> None:
    # Sent at 100, read at 400, executed from 450 to 650, answered at 700.
    one = found([(450, 650, 1)], [(400, 450)], [(100, 700)])
    assert (one.starved, one.waiting, one.busy) == pytest.approx((0.3, 0.05, 0.2))
    assert one.no_demand == pytest.approx(0.45)


def test_what_is_executed_is_no_starvation_of_others() -> None:
    both = found([(100, 600, 1)], [(90, 100)], [(0, 650), (200, 1000)])
    assert both.busy == pytest.approx(0.5)
    assert both.starved == pytest.approx(0.09 + 0.4)


def test_what_is_held_up_on_its_way_is_not_starved() -> None:
    assert found([(500, 600, 1)], [(500, 500)], [(0, 650)], held=200).starved == pytest.approx(0.3)
