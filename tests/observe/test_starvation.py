"""The accounts: every instant in exactly one state, and what is starved charged to what the next completion was at."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.media import Modality
from sidecar.observe.journal import Handover, Passage
from sidecar.observe.starvation import Account, Booked, Cause, Counters, State, summed
from sidecar.observe.timings import Mark, Stage
from tests.observe.passages import item, noted, passage

MS = 1_000_000
START = 10_000 * MS
RTT = MS // 2
# What an account takes a small call to need, by such round trips: until an execution begins, and on the way back.
THERE, BACK = int(0.8 * RTT), RTT // 2
# And what the front itself needs to lay and send it, milliseconds.
OWN = 0.15


def call(
    begun_ms: float,
    *stages: tuple[Stage, float],
    answered_ms: float | None = None,
    rows: int = 1,
    failed: bool = False,
    cpu_ms: float = 0.0,
) -> Passage:
    """A call that came then and was in these stages until then, each; handed over after the last, and answered."""
    at, marks = begun_ms, []
    for stage, until in stages:
        marks.append((stage, START + round(at * MS), START + round(until * MS)))
        at = until
    made = passage(
        *marks,
        items=[item(*marks, cpu_ms=cpu_ms)],
        upstream="model",
        start_ns=START + round(begun_ms * MS),
        ended_ns=START + round((at if answered_ms is None else answered_ms) * MS),
    )
    if answered_ms is not None:
        answered = START + round(answered_ms * MS)
        made.handovers = [Handover(rows, START + round(at * MS), answered, answered, failed)]
    return made


def under_way(begun_ms: float, *marks: Mark, handed_ms: float | None = None) -> Passage:
    made = passage(*marks, upstream="model", start_ns=START + round(begun_ms * MS), ended_ns=0, reason="")
    if handed_ms is not None:
        made.handovers = [Handover(1, START + round(handed_ms * MS))]
    return made


def counted(
    at_ms: float, requests: int, took_ms: float, *, queued_ms: float = 0.0, executions: int | None = None
) -> Counters:
    """What a server has counted by then, each execution of one row and so long."""
    return Counters(
        at_ns=START + round(at_ms * MS),
        rtt_ns=RTT,
        requests=requests,
        rows=requests,
        executions=requests if executions is None else executions,
        queue_ns=round(requests * queued_ms * MS),
        compute_ns=round(requests * took_ms * MS),
        output_ns=0,
        batches={1: (requests, round(requests * took_ms * MS))} if requests else {},
    )


def enter(made: Account, *calls: Passage) -> None:
    """These ended, in this order."""
    made.absorb(noted(*calls))


def account(
    *calls: Passage, took_ms: float = 0.0, queued_ms: float = 0.0, executions: int | None = None
) -> Account:
    """An account of calls that all were answered by 1000 ms, with a server that counts."""
    made = Account(START)
    made.count(counted(0, 0, 0))
    enter(made, *calls)
    answered = sum(len(each.handovers) for each in calls)
    if took_ms:
        made.count(counted(1000, answered, took_ms, queued_ms=queued_ms, executions=executions))
    return made


def settled(made: Account, until_ms: float, now_ms: float | None = None, **more: object) -> Booked:
    now = START + round((until_ms if now_ms is None else now_ms) * MS)
    booked, _, _ = made.settle(START + round(until_ms * MS), now, **more)  # type: ignore[arg-type]
    return booked


def ms(booked: Booked) -> dict[State, float]:
    return {state: spent / MS for state, spent in booked.states.items() if spent}


def causes(booked: Booked) -> dict[Cause, float]:
    return {cause: spent / MS for (cause, _), spent in booked.starved.items() if spent}


PREPARED = (
    (Stage.RECEIVE, 1),
    (Stage.PROBE, 2),
    (Stage.ADMIT, 5),
    (Stage.DECODE, 15),
    (Stage.TRANSFORM, 18),
    (Stage.PACK, 20),
)


class TestGlances:
    def test_a_glance_sees_the_last_half_second_as_settling_would(self) -> None:
        calls = [call(50 * n, (Stage.DECODE, 50 * n + 30), answered_ms=50 * n + 45) for n in range(20)]
        glanced = account(*calls, took_ms=10).glance(START + 990 * MS)
        _, _, latest = account(*calls, took_ms=10).settle(START, START + 990 * MS)
        assert glanced == latest

    def test_a_glance_settles_nothing(self) -> None:
        made = account(call(0, *PREPARED, answered_ms=40), took_ms=15)
        made.glance(START + 400 * MS)
        assert ms(settled(made, 100)) == ms(
            settled(account(call(0, *PREPARED, answered_ms=40), took_ms=15), 100)
        )

    def test_calls_under_way_are_seen(self) -> None:
        assert Account(START).glance(START + 600 * MS, [under_way(0)]).states == {State.IDLE_PREP: 500 * MS}

    def test_nobody_asks_and_that_is_all(self) -> None:
        assert Account(START).glance(START + 600 * MS).states == {State.IDLE_DEMAND: 500 * MS}


class TestStates:
    def test_nobody_asks_and_all_time_is_for_want_of_demand(self) -> None:
        assert ms(settled(Account(START), 500)) == {State.IDLE_DEMAND: 500}

    def test_a_call_is_prepared_handed_over_and_executed(self) -> None:
        booked = settled(account(call(0, *PREPARED, answered_ms=40), took_ms=15), 100)
        found = ms(booked)
        assert sum(found.values()) == pytest.approx(100)
        assert found[State.IDLE_PREP] == pytest.approx(20 + OWN)
        assert found[State.BUSY] == pytest.approx(15)
        # The way there and back is what is left of the 20 ms; what came after is nobody's wish.
        assert found[State.IDLE_XFER] + found.get(State.IDLE_BATCH, 0.0) == pytest.approx(
            5 - BACK / MS, abs=4.8
        )
        assert found[State.IDLE_DEMAND] == pytest.approx(60, abs=5)

    def test_an_accelerator_that_is_busy_is_not_starved_whoever_is_prepared_meanwhile(self) -> None:
        booked = settled(
            account(
                call(0, *PREPARED, answered_ms=121),
                call(30, (Stage.DECODE, 110), answered_ms=230),
                took_ms=100,
            ),
            120,
        )
        assert ms(booked)[State.IDLE_PREP] == pytest.approx(20 + OWN)

    def test_a_queue_that_the_server_counts_is_its_own(self) -> None:
        booked = settled(account(call(0, *PREPARED, answered_ms=90), took_ms=20, queued_ms=45), 100)
        assert ms(booked)[State.IDLE_BATCH] == pytest.approx(45, abs=1)

    def test_what_no_queue_explains_is_the_way_there(self) -> None:
        booked = settled(account(call(0, *PREPARED, answered_ms=190), took_ms=20), 200)
        # A front may be late to hear of an answer by 20 ms; the rest was before the execution.
        assert ms(booked)[State.IDLE_XFER] == pytest.approx(130, abs=1)

    def test_an_answer_that_failed_was_on_its_way_all_the_time(self) -> None:
        booked = settled(account(call(0, *PREPARED, answered_ms=50, failed=True)), 60)
        assert ms(booked) == {State.IDLE_PREP: 20 + OWN, State.IDLE_XFER: 30 - OWN, State.IDLE_DEMAND: 10}

    def test_a_server_that_does_not_count_is_busy_from_hand_over_to_answer(self) -> None:
        made = Account(START)
        enter(made, call(0, *PREPARED, answered_ms=50))
        assert ms(settled(made, 60)) == {State.IDLE_PREP: 20, State.BUSY: 30, State.IDLE_DEMAND: 10}

    def test_executions_of_one_batch_count_once(self) -> None:
        calls = [call(0, (Stage.DECODE, 10), answered_ms=30 + number / 10) for number in range(4)]
        made = account(*calls, took_ms=15, executions=1)
        assert ms(settled(made, 100))[State.BUSY] == pytest.approx(15)

    def test_time_is_settled_once_and_the_rest_foreseen(self) -> None:
        made = account(call(0, *PREPARED, answered_ms=40), took_ms=15)
        first, ahead, _ = made.settle(START + 10 * MS, START + 50 * MS)
        second, _, _ = made.settle(START + 50 * MS, START + 50 * MS)
        assert (first.span_ns, ahead.span_ns, second.span_ns) == (10 * MS, 40 * MS, 40 * MS)
        assert ahead.states == second.states
        assert ms(first) == {State.IDLE_PREP: 10}

    def test_a_restarted_server_that_counts_from_nothing_again_does_no_harm(self) -> None:
        made = account(call(0, *PREPARED, answered_ms=40), took_ms=15)
        enter(made, call(1100, (Stage.DECODE, 1110), answered_ms=1130))
        made.count(counted(1200, 0, 0))
        assert sum(settled(made, 1200).states.values()) == 1200 * MS


class TestHanging:
    def test_work_without_a_sign_of_life_past_its_bound_is_a_hang_and_no_starvation(self) -> None:
        made = account(
            *[call(10 * n, (Stage.DECODE, 10 * n + 5), answered_ms=10 * n + 9) for n in range(20)], took_ms=3
        )
        waits = under_way(300, handed_ms=310)
        booked, ahead, _ = made.settle(START + 1000 * MS, START + 3000 * MS, [waits])
        both = summed([booked, ahead])
        # The bound is a second from the last sign of life: the server counted until 1000 ms.
        assert both.states[State.HUNG] / MS == pytest.approx(1000, abs=2)
        assert both.states[State.IDLE_PREP] / MS == pytest.approx(20 * (5 + OWN) + 10, abs=1)

    def test_a_server_that_never_answered_is_given_longer(self) -> None:
        made = Account(START)
        booked, ahead, _ = made.settle(START, START + 9000 * MS, [under_way(0, handed_ms=1)])
        assert State.HUNG not in ms(summed([booked, ahead]))
        assert State.HUNG in ms(made.settle(START, START + 12_000 * MS, [under_way(0, handed_ms=1)])[1])

    def test_a_slow_model_has_a_wider_bound(self) -> None:
        slow = account(*[call(0, (Stage.DECODE, 1), answered_ms=900) for _ in range(10)], took_ms=890)
        assert slow.bound_ns() == pytest.approx(5 * 899 * MS)

    def test_one_answer_after_a_hang_does_not_widen_it_much(self) -> None:
        quick = [call(n, (Stage.DECODE, n + 1), answered_ms=n + 9) for n in range(30)]
        made = account(*quick, call(0, (Stage.DECODE, 1), answered_ms=990), took_ms=3)
        assert made.bound_ns() == 1_000_000_000

    def test_responses_of_a_stream_are_signs_of_life(self) -> None:
        stream = under_way(0, handed_ms=10)
        stream.handovers[0].whole = True
        stream.handovers[0].last_ns = START + 11_500 * MS
        _, ahead, _ = Account(START).settle(START, START + 12_000 * MS, [stream])
        assert ms(ahead) == {State.IDLE_PREP: 10, State.BUSY: 11_990}

    def test_callers_who_give_up_are_no_sign_of_life(self) -> None:
        quick = [call(10 * n, (Stage.DECODE, 10 * n + 5), answered_ms=10 * n + 9) for n in range(20)]
        made = account(*quick, took_ms=3)
        # From 1000 ms on, one caller after the other waits 600 ms and leaves; none is answered.
        for n in range(10):
            enter(
                made,
                call(
                    1000 + 300 * n, (Stage.RECEIVE, 1001 + 300 * n), answered_ms=1600 + 300 * n, failed=True
                ),
            )
        waits = [under_way(4000, handed_ms=4001)]
        _, ahead, _ = made.settle(START + 1000 * MS, START + 4500 * MS, waits)
        assert ahead.states[State.HUNG] / MS > 400

    def test_an_answer_ends_the_silence(self) -> None:
        quick = [call(10 * n, (Stage.DECODE, 10 * n + 5), answered_ms=10 * n + 9) for n in range(20)]
        made = account(*quick, took_ms=3)
        enter(made, call(1000, (Stage.RECEIVE, 1001), answered_ms=2500, failed=True))
        enter(made, call(2600, (Stage.DECODE, 2610), answered_ms=2620))
        _, ahead, _ = made.settle(START + 2500 * MS, START + 3000 * MS, [under_way(2700, handed_ms=2710)])
        assert State.HUNG not in ms(ahead)

    def test_a_stream_whose_reader_rests_is_not_the_servers_silence(self) -> None:
        stream = under_way(0, handed_ms=10)
        stream.handovers[0].whole = stream.handovers[0].paused = True
        stream.handovers[0].last_ns = START + 500 * MS
        _, ahead, _ = Account(START).settle(START, START + 30_000 * MS, [stream])
        assert ms(ahead) == {State.IDLE_PREP: 10, State.BUSY: 490, State.IDLE_DEMAND: 29_500}

    def test_an_error_that_the_server_gave_is_its_answer(self) -> None:
        one = call(0, *PREPARED, answered_ms=50)
        one.handovers[0].whole = True
        assert ms(settled(account(one), 60)) == {State.IDLE_PREP: 20, State.BUSY: 30, State.IDLE_DEMAND: 10}


class TestCauses:
    def test_starved_time_is_charged_to_the_stages_of_the_call_that_is_handed_over_next(self) -> None:
        assert causes(settled(account(call(0, *PREPARED, answered_ms=40), took_ms=15), 100)) == pytest.approx(
            {
                Cause.RECEIVE: 1,
                Cause.PROBE: 1,
                Cause.ADMIT: 3,
                Cause.DECODE: 10,
                Cause.TRANSFORM: 3,
                Cause.PACK: 2,
                Cause.DELIVER: OWN,
            }
        )

    def test_the_quick_one_is_to_blame_only_from_when_it_came(self) -> None:
        slow = call(0, (Stage.DECODE, 90), answered_ms=120)
        quick = call(50, (Stage.ADMIT, 60), answered_ms=65)
        found = causes(settled(account(slow, quick, took_ms=3), 60))
        assert found == pytest.approx({Cause.DECODE: 50, Cause.ADMIT: 10})

    def test_a_worker_is_late_by_all_that_it_did_and_not_by_what_came_last(self) -> None:
        first = call(0, (Stage.DECODE, 80), answered_ms=100)
        second = call(10, (Stage.DECODE, 90), (Stage.TRANSFORM, 110), answered_ms=120)
        made = account(first, second, took_ms=18)
        starved = settled(made, 200)
        # From the first's end to the second's hand-over it was in transform; its worker had decoded four times as long.
        assert causes(starved)[Cause.DECODE] > 4 * causes(starved)[Cause.TRANSFORM]

    def test_a_pause_before_decode_is_the_wait_for_a_worker(self) -> None:
        made = passage(
            (Stage.RECEIVE, START, START + MS),
            (Stage.DECODE, START + 31 * MS, START + 41 * MS),
            upstream="model",
            start_ns=START,
            ended_ns=START + 60 * MS,
        )
        made.handovers = [Handover(1, START + 45 * MS, START + 60 * MS, START + 60 * MS)]
        assert causes(settled(account(made, took_ms=14), 45)) == pytest.approx(
            {Cause.RECEIVE: 1, Cause.ADMIT: 30, Cause.DECODE: 10, Cause.DELIVER: 4}
        )

    def test_a_call_whose_message_is_still_coming_is_receive(self) -> None:
        assert causes(settled(Account(START), 100, under_way=[under_way(0)])) == {Cause.RECEIVE: 100}

    def test_a_job_that_has_not_reported_is_taken_to_decode(self) -> None:
        waits = under_way(0, (Stage.RECEIVE, START, START + MS))
        waits.items = [item()]
        waits.items[0].begun_ns = START + 5 * MS  # type: ignore[misc]
        assert causes(settled(Account(START), 100, under_way=[waits])) == {Cause.RECEIVE: 1, Cause.DECODE: 99}

    def test_a_quota_takes_its_part_of_what_workers_were_kept_from_and_none_of_what_callers_were(
        self,
    ) -> None:
        made = call(0, (Stage.RECEIVE, 20), (Stage.DECODE, 100), answered_ms=110, cpu_ms=20.0)
        found = causes(settled(account(made, took_ms=5), 100, throttled=0.5))
        assert found == pytest.approx({Cause.RECEIVE: 20, Cause.THROTTLED: 40, Cause.DECODE: 40})

    def test_a_worker_that_was_on_its_core_was_not_kept_from_it(self) -> None:
        made = call(0, (Stage.DECODE, 100), answered_ms=110, cpu_ms=98.0)
        found = causes(settled(account(made, took_ms=5), 100, throttled=0.5))
        assert found[Cause.THROTTLED] == pytest.approx(2, abs=0.1)

    def test_each_modality_has_its_own(self) -> None:
        sound = call(0, (Stage.TRANSFORM, 40), answered_ms=50)
        sound.modality = Modality.AUDIO
        booked = settled(account(sound, took_ms=5), 40)
        assert booked.starved == {(Cause.TRANSFORM, Modality.AUDIO): 40 * MS}

    def test_of_very_many_pieces_the_sum_is_exact(self) -> None:
        calls = [call(n, (Stage.DECODE, n + 0.4), answered_ms=n + 0.9) for n in range(900)]
        booked = settled(account(*calls, took_ms=0.2), 1000)
        assert booked.starved.total() == booked.states[State.IDLE_PREP] > 300 * MS


class TestBatches:
    def test_room_that_rows_in_preprocessing_would_fill_is_partial_starvation(self) -> None:
        first = call(0, (Stage.DECODE, 10), answered_ms=50)
        behind = [call(0, (Stage.DECODE, 300), answered_ms=350) for _ in range(3)]
        made = account(first, *behind, took_ms=30)
        made.target_rows = 4
        booked = settled(made, 100)
        assert (booked.executions, booked.rows) == (1, 1)
        assert booked.fill_ns == pytest.approx(30 * MS * 3 / 4)

    def test_rows_of_which_no_counters_tell_are_counted_by_their_answers(self) -> None:
        made = Account(START)
        for n in range(3):
            enter(made, call(100 * n, (Stage.DECODE, 100 * n + 20), answered_ms=100 * n + 80, rows=2))
        assert [settled(made, until).rows for until in (100, 500, 900)] == [2, 4, 0]

    def test_calls_without_number_that_are_prepared_are_prepared_and_nothing_else(self) -> None:
        crowd = [under_way(0) for _ in range(5000)]
        assert causes(settled(Account(START), 100, under_way=crowd)) == {Cause.RECEIVE: 100}

    def test_the_ceiling_is_a_line_through_batches_of_several_sizes(self) -> None:
        made = Account(START, target_rows=8)
        empty = Counters(START, RTT, 0, 0, 0, 0, 0, 0)
        made.count(empty)
        # 10 ms an execution and 2 a row.
        sizes = {1: (10, 120 * MS), 4: (10, 180 * MS)}
        made.count(Counters(START + 500 * MS, RTT, 50, 50, 20, 0, 300 * MS, 0, sizes))
        assert made.ceiling(Booked(START, START)) == pytest.approx(8 / 0.026)
        assert (
            made.ceiling(Booked(START + 600 * MS, START + 700 * MS)) == 0
        )  # of that interval nothing is known

    def test_round_trips_of_a_front_that_is_stopped_say_nothing_of_the_way(self) -> None:
        made, stopped = account(took_ms=0), 80 * MS
        for n in range(1, 30):
            made.count(replace(counted(100 * n, n - 1, 5), rtt_ns=stopped), 0.5)
            enter(made, call(100 * n, *[(Stage.DECODE, 100 * n + 60)], answered_ms=100 * n + 90))
        made.count(replace(counted(3000, 29, 5), rtt_ns=stopped), 0.5)
        found = ms(settled(made, 3000))
        assert found[State.IDLE_PREP] >= 29 * 60
        assert found.get(State.IDLE_XFER, 0.0) < 29 * 30

    @pytest.mark.parametrize(("target_rows", "expected"), [(0, 100), (1, 100), (8, 0)])
    def test_batches_of_one_size_say_nothing_of_fuller_ones(self, target_rows: int, expected: float) -> None:
        made = account(
            *[call(20 * n, (Stage.DECODE, 20 * n + 5), answered_ms=20 * n + 16) for n in range(10)],
            took_ms=10,
        )
        made.target_rows = target_rows
        assert made.ceiling(settled(made, 1000)) == pytest.approx(expected)

    def test_with_one_size_it_is_what_was_done_while_busy(self) -> None:
        made = account(
            *[call(20 * n, (Stage.DECODE, 20 * n + 5), answered_ms=20 * n + 16) for n in range(10)],
            took_ms=10,
        )
        assert made.ceiling(settled(made, 1000)) == pytest.approx(100)

    def test_of_time_that_is_only_foreseen_the_ceiling_counts_no_rows_and_no_time(self) -> None:
        made = account(
            *[call(20 * n, (Stage.DECODE, 20 * n + 5), answered_ms=20 * n + 16) for n in range(50)],
            took_ms=10,
        )
        booked, ahead, _ = made.settle(START + 200 * MS, START + 900 * MS)
        assert made.ceiling(summed([booked, ahead])) == pytest.approx(100, rel=0.1)


moments = st.floats(0, 900)


@st.composite
def histories(draw: st.DrawFn) -> list[Passage]:
    """Calls of all kinds and ends, with their stages in the path's order."""
    made = []
    for _ in range(draw(st.integers(0, 12))):
        times = sorted(draw(st.lists(moments, min_size=8, max_size=8)))
        stages = [
            (stage, until)
            for stage, until in zip(list(Stage)[:6], times[1:7], strict=True)
            if draw(st.booleans())
        ]
        answered = draw(st.sampled_from([None, times[7] + 1]))
        made.append(
            call(
                times[0],
                *stages,
                answered_ms=answered,
                failed=draw(st.booleans()),
                cpu_ms=draw(st.floats(0, 50)),
            )
        )
    return sorted(made, key=lambda each: each.ended_ns)


@settings(max_examples=200)
@given(
    histories(),
    st.lists(st.floats(0, 1000), max_size=5),
    st.floats(0, 1),
    st.floats(0.01, 50),
    st.floats(0, 50),
)
def test_every_instant_is_in_one_state_and_all_that_is_starved_is_charged(
    calls: list[Passage], cuts: Sequence[float], throttled: float, took_ms: float, queued_ms: float
) -> None:
    made = account(*calls, took_ms=took_ms, queued_ms=queued_ms)
    parts = [
        made.settle(START + round(until * MS), START + 1000 * MS, (), throttled)[0]
        for _, until in pairwise([0.0, *sorted(cuts), 1000.0])
    ]
    whole = summed(parts)
    assert whole.states.total() == whole.span_ns == 1000 * MS
    assert all(spent >= 0 for spent in whole.states.values())
    assert whole.starved.total() == whole.states[State.IDLE_PREP]
    assert all(spent >= 0 for spent in whole.starved.values())


@settings(max_examples=100)
@given(histories(), st.floats(0.01, 50))
def test_settling_in_pieces_gives_the_same_as_at_once(calls: list[Passage], took_ms: float) -> None:
    at_once, in_pieces = account(*calls, took_ms=took_ms), account(*calls, took_ms=took_ms)
    once = settled(at_once, 1000)
    pieces = summed([settled(in_pieces, until, 1000) for until in np.linspace(100, 1000, 10)])
    for state in State:
        assert pieces.states[state] == pytest.approx(once.states[state], abs=20)


def test_a_timeline_is_read_and_never_changed() -> None:
    one = call(0, *PREPARED, answered_ms=40)
    before = deepcopy(one.timeline)
    settled(account(one, took_ms=15), 100)
    assert one.timeline == before
