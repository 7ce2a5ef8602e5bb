"""Every way a view can mirror and transpose is told by its strides, and can be laid out anew."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sidecar.stages.transform.turn import Turn, together, turn_of
from testbed.pictures import noise

EVERY_TURN = [Turn(*flags) for flags in itertools.product((False, True), repeat=3)]


@pytest.mark.parametrize("turn", EVERY_TURN)
def test_a_view_tells_its_turn_and_what_it_was_made_of(turn: Turn) -> None:
    lying = noise(7, 11)
    view = turn.view(lying)
    assert turn == turn_of(view)
    assert np.shares_memory(lying, view)
    assert np.array_equal(lying, turn.lying(view))
    assert turn.lying(view).flags.c_contiguous


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (300, 521)])
@pytest.mark.parametrize("turn", EVERY_TURN)
def test_pixels_laid_together_are_the_same_ones(turn: Turn, size: tuple[int, int]) -> None:
    view = turn.view(noise(*size))
    found = together(view)
    assert np.array_equal(view, found)
    assert turn_of(found) == Turn()


def test_pixels_that_lie_well_are_not_copied() -> None:
    picture = noise(7, 11)
    assert together(picture) is picture
    part = picture[2:5, 3:9]
    assert together(part) is part
