"""Calls are where they have come to, once; and those that nobody looks at are bounded."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe import journal as journals
from sidecar.observe.journal import Arrival, Journal, Passage
from tests.observe.passages import passage


def test_a_call_is_arriving_until_the_rest_of_its_message_has_come() -> None:
    journal = Journal()
    before = time.monotonic_ns()
    arrival = journal.arrive()
    assert before <= arrival.at_ns <= time.monotonic_ns()
    assert list(journal.arriving) == [arrival]
    journal.arrived(arrival)
    assert not journal.arriving


def test_the_first_of_those_that_arrive_is_the_oldest() -> None:
    journal = Journal()
    first, second, third = (journal.arrive() for _ in range(3))
    journal.arrived(first)
    assert list(journal.arriving) == [second, third]
    assert second.at_ns <= third.at_ns


def test_one_that_arrived_twice_or_never_is_no_error() -> None:
    journal = Journal()
    arrival = journal.arrive()
    journal.arrived(arrival)
    journal.arrived(arrival)
    journal.arrived(Arrival(0))
    assert not journal.arriving


def test_a_call_is_under_way_until_it_has_ended() -> None:
    journal, call = Journal(), passage(reason="", ended_ns=0)
    journal.begin(call)
    assert list(journal.under_way) == [call]
    assert (call.reason, call.ended_ns, journal.take_ended()) == ("", 0, [])
    before = time.monotonic_ns()
    journal.end(call, "OVERLOADED")
    assert not journal.under_way
    assert journal.take_ended() == [call]
    assert call.reason == "OVERLOADED"
    assert before <= call.ended_ns <= time.monotonic_ns()


def test_calls_that_look_alike_are_two() -> None:
    journal, first, second = Journal(), passage(), passage()
    for call in (first, second):
        journal.begin(call)
    journal.end(first, "OK")
    assert list(journal.under_way) == [second]
    assert journal.take_ended() == [first]


def test_those_that_ended_are_taken_once_in_the_order_in_which_they_did() -> None:
    journal = Journal()
    first, second, third = calls = [passage() for _ in range(3)]
    for call in calls:
        journal.begin(call)
    for call in (third, first):
        journal.end(call, "OK")
    assert journal.take_ended() == [third, first]
    assert journal.take_ended() == []
    journal.end(second, "OK")
    assert journal.take_ended() == [second]


def test_past_the_bound_the_oldest_are_dropped_and_counted() -> None:
    journal = Journal()
    calls = [passage() for _ in range(journals._MOST_ENDED + 3)]
    for call in calls:
        journal.begin(call)
        journal.end(call, "OK")
    assert journal.dropped == 3
    assert len(journal.ended) == journals._MOST_ENDED
    assert journal.take_ended() == calls[3:]
    assert not journal.under_way


@given(st.lists(st.sampled_from(["begin", "end", "take"]), max_size=60), st.integers(1, 5))
def test_every_call_is_under_way_or_ended_or_taken_or_dropped(steps: Sequence[str], most: int) -> None:
    journal = Journal()
    begun: list[Passage] = []
    open_calls: list[Passage] = []
    taken: list[Passage] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "_MOST_ENDED", most)
        for step in steps:
            if step == "begin":
                begun.append(call := passage())
                open_calls.append(call)
                journal.begin(call)
            elif step == "end" and open_calls:
                journal.end(open_calls.pop(), "OK")
            elif step == "take":
                taken += journal.take_ended()
            assert list(journal.under_way) == open_calls
            assert len(journal.ended) <= most
            assert len(begun) == len(open_calls) + len(journal.ended) + len(taken) + journal.dropped


def test_where_nobody_looks_nothing_is_entered_and_calls_have_their_times_all_the_same() -> None:
    journal, call = Journal(kept=False), passage(reason="", ended_ns=0)
    arrival = journal.arrive()
    assert arrival.at_ns > 0
    journal.begin(call)
    assert (journal.arriving, journal.under_way) == ({}, {})
    journal.arrived(arrival)
    journal.end(call, "OK")
    assert journal.take_ended() == []
    assert call.reason == "OK"
    assert call.ended_ns >= arrival.at_ns


@pytest.mark.parametrize("length", [0, 64, 65, 1_000_000])
def test_of_a_caller_s_own_text_no_more_than_its_beginning_is_kept(length: int) -> None:
    assert passage(request_id="x" * length).request_id == "x" * min(length, 64)
