"""The self-check's arithmetic and its words; what it does over real channels is in tests/edge/test_diagnostics.py."""

from __future__ import annotations

import pytest

from sidecar.self_check import Checked


def test_the_part_that_is_lacking_is_what_feeding_adds() -> None:
    checked = Checked("model", live_rows_per_s=60, fed_rows_per_s=100, starved_by_accounts=0.42)
    assert checked.starved_by_rates == pytest.approx(0.4)
    assert checked.agree
    assert "agree" in checked.words


def test_two_figures_that_are_far_apart_disagree_aloud() -> None:
    checked = Checked("model", live_rows_per_s=60, fed_rows_per_s=100, starved_by_accounts=0.1)
    assert not checked.agree
    assert "DISAGREE" in checked.words


def test_a_server_that_is_slower_when_fed_lacked_nothing() -> None:
    assert Checked("model", 100, 90, 0.0).starved_by_rates == 0


def test_one_that_answered_nothing_says_nothing() -> None:
    assert Checked("model", 0, 0, 0.0).starved_by_rates == 0
