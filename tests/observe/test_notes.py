"""Calls as columns: every number where its column says, in the order in which calls ended, each once."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from sidecar.media import Modality
from sidecar.observe.journal import Handover
from sidecar.observe.notes import (
    FAILED,
    MODALITIES,
    NEVER,
    NOTHING,
    PLAIN,
    WHOLE,
    Calls,
    Items,
    Notes,
    Runs,
    joined,
)
from sidecar.observe.timings import PLACES, STAGES, Stage
from tests.observe.passages import START_NS, item, noted, passage

DECODED = (Stage.DECODE, START_NS, START_NS + 7)


def test_a_call_that_was_handed_over_is_prepared_then() -> None:
    made = passage(DECODED, upstream="model", ended_ns=START_NS + 20)
    made.handovers = [Handover(3, START_NS + 8, START_NS + 19, START_NS + 19), Handover(1, START_NS + 9)]
    row = noted(made).calls[0]
    assert row[Calls.BEGUN] == START_NS
    assert row[Calls.PREPARED] == row[Calls.RANK] == START_NS + 8
    assert row[Calls.ENDED] == START_NS + 20
    assert STAGES[row[Calls.LAST]] is Stage.DELIVER


def test_a_call_that_was_not_is_prepared_at_its_end_and_completes_after_all_others() -> None:
    row = noted(passage(DECODED, reason="OVERLOADED")).calls[0]
    assert row[Calls.PREPARED] == row[Calls.ENDED]
    assert row[Calls.RANK] == NEVER
    assert row[Calls.FAILED]


def test_items_have_their_own_times_and_the_call_the_sum_of_their_cpu_time() -> None:
    found = noted(passage(items=[item(DECODED, cpu_ms=2.5), item(cpu_ms=1.5)], modality=Modality.AUDIO))
    assert found.calls[0, Calls.CPU_NS] == 4_000_000
    assert found.items[:, Items.CPU_NS].tolist() == [2_500_000, 1_500_000]
    assert {MODALITIES[place] for place in found.items[:, Items.MODALITY]} == {Modality.AUDIO}
    assert found.items[:, Items.STAGES + PLACES[Stage.DECODE]].tolist() == [7, 0]


def test_what_was_handed_over_has_its_kind_and_a_stream_whose_reader_rests_its_last_answer() -> None:
    made = passage(upstream="model")
    made.handovers = [
        Handover(1, 1, 5, 5),
        Handover(1, 1, 0, 6, failed=True),
        Handover(1, 1, 7, 7, whole=True),
        Handover(1, 1, 4, 0, whole=True, paused=True),
    ]
    runs = noted(made).runs
    assert runs[:, Runs.KIND].tolist() == [PLAIN, FAILED, WHOLE, WHOLE]
    assert runs[:, Runs.ANSWERED].tolist() == [5, 6, 7, 4]


def test_nothing_is_kept_of_a_call_that_was_laid() -> None:
    notes, made = Notes(), passage()
    before = sys.getrefcount(made)
    notes.take(made)
    assert sys.getrefcount(made) > before
    notes.lay()
    assert sys.getrefcount(made) == before
    assert len(notes) == 1


@given(st.lists(st.booleans(), max_size=60))
def test_however_they_are_laid_and_drained_all_calls_come_out_once_and_in_order(drains: list[bool]) -> None:
    notes, parts = Notes(), []
    for number, drain in enumerate(drains):
        made = passage((Stage.PROBE, 0, number), start_ns=number, items=[item()])
        if notes.take(made):
            notes.lay()
        if drain:
            parts.append(notes.drain())
    parts.append(notes.drain())
    whole = joined(parts)
    assert whole.calls[:, Calls.BEGUN].tolist() == list(range(len(drains)))
    assert whole.marks == [[PLACES[Stage.PROBE], 0, number] for number in range(len(drains))]
    assert len(whole.items) == len(drains)
    assert not notes


def test_nothing_joined_is_nothing() -> None:
    assert joined([]) is NOTHING
    assert not Notes().drain().calls.size
