"""A model server is given what keeps it busy, no more while it is stuck, and no less once it is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.stages.admit.credits import Credits, CreditStatistics

MS = 1_000_000
SECOND = 1_000 * MS
# What any model may have, with nothing known of it.
LEAST = 8


def known(configured: int = 0, largest_batch: int = 0) -> Credits:
    credit = Credits()
    credit.know("model", configured, largest_batch)
    return credit


def depth(credit: Credits, now_ns: int) -> int:
    credit.room("model", now_ns)
    return credit.statistics()["model"].depth


def serve(credit: Credits, begin_ns: int, seconds: float, took_s: float, servers: int) -> int:
    """A model server that answers so many at once, each after `took_s`, and is always busy; when it ends."""
    now_ns, end_ns = begin_ns, begin_ns + int(seconds * SECOND)
    while now_ns < end_ns:
        now_ns += int(took_s * SECOND)
        for _ in range(servers):
            credit.hand_over("model", 1)
            credit.answered("model", 1, took_s, now_ns)
    return now_ns


class TestDepth:
    def test_what_is_not_known_may_have_a_few(self) -> None:
        credit = known()
        assert depth(credit, 5) == LEAST
        assert Credits().room("stranger", 0)

    def test_what_is_configured_is_gone_by_as_it_is_now(self) -> None:
        credit = known(configured=4)
        assert depth(credit, 5) == 4
        credit.know("model", 64, 0)
        assert depth(credit, 5) == 64

    def test_two_of_the_largest_batches_may_be_there(self) -> None:
        credit = known(largest_batch=32)
        assert depth(credit, 5) == 64
        credit.know("model", 0, 16)
        assert depth(credit, 5) == 32

    def test_a_number_that_was_configured_holds_whatever_is_seen(self) -> None:
        credit = known(configured=3, largest_batch=32)
        end_ns = serve(credit, 0, 3.0, 0.1, 50)
        assert depth(credit, end_ns) == 3

    @given(st.integers(1, 64), st.sampled_from([0.01, 0.05, 0.1, 0.25]))
    @settings(max_examples=30)
    def test_it_is_twice_what_is_answered_in_the_time_of_an_answer(self, servers: int, took_s: float) -> None:
        """Little's law: as many as are worked on at once, twice; a window cuts off one round at each end."""
        credit = known()
        end_ns = serve(credit, SECOND, 4.0, took_s, servers)
        assert depth(credit, end_ns) >= LEAST
        if 2 * servers > LEAST:
            assert depth(credit, end_ns) == pytest.approx(2 * servers, rel=2 * took_s + 0.02, abs=1)

    def test_time_in_its_own_queue_does_not_make_it_deeper(self) -> None:
        """What is handed over and waits there takes longer, and is answered no faster."""
        credit = known()
        busy_ns = serve(credit, SECOND, 2.0, 0.1, 10)
        before = depth(credit, busy_ns)
        for number in range(20):
            credit.hand_over("model", 10)
            credit.answered("model", 10, 0.8, busy_ns + number * 100 * MS)
        # A window has one round more or less.
        assert depth(credit, busy_ns + 2 * SECOND) <= 1.25 * before


class TestFeeding:
    def test_there_is_room_until_the_depth_is_reached_and_again_with_each_answer(self) -> None:
        credit = known()
        for _ in range(LEAST):
            assert credit.room("model", SECOND)
            credit.hand_over("model", 1)
        assert not credit.room("model", SECOND)
        credit.answered("model", 1, 0.1, SECOND)
        assert credit.room("model", SECOND)
        assert credit.statistics() == {"model": CreditStatistics(LEAST - 1, LEAST)}

    def test_a_batch_counts_its_items(self) -> None:
        credit = known()
        credit.hand_over("model", LEAST)
        assert not credit.room("model", SECOND)

    def test_a_model_server_that_is_stuck_is_fed_no_more_however_fast_it_was(self) -> None:
        credit = known()
        now_ns = serve(credit, SECOND, 2.0, 0.05, 20)
        fed = 0
        while credit.room("model", now_ns):
            credit.hand_over("model", 1)
            fed += 1
        assert LEAST < fed <= 2 * 20 * 1.2
        for later_s in (1, 10, 100):
            assert not credit.room("model", now_ns + later_s * SECOND)
        assert depth(credit, now_ns + 100 * SECOND) == LEAST

    def test_failures_give_the_credit_back_and_teach_nothing(self) -> None:
        credit = known()
        for number in range(100):
            credit.hand_over("model", 1)
            credit.answered("model", 1, None, SECOND + number * MS)
        assert credit.statistics() == {"model": CreditStatistics(0, LEAST)}
        assert credit.takes_s("model", 2 * SECOND) == 0.0

    def test_one_model_that_is_stuck_leaves_the_others_theirs(self) -> None:
        credit = known()
        credit.know("other", 0, 0)
        credit.hand_over("model", 100)
        assert (credit.room("model", SECOND), credit.room("other", SECOND)) == (False, True)


class TestTimes:
    def test_nine_answers_of_ten_take_no_longer(self) -> None:
        credit = known()
        for number in range(20):
            credit.hand_over("model", 1)
            credit.answered("model", 1, number / 10, SECOND + number * MS)
        assert credit.takes_s("model", 2 * SECOND) == pytest.approx(1.7)

    def test_nothing_seen_is_no_time_at_all(self) -> None:
        assert known().takes_s("model", 0) == 0.0
        assert Credits().takes_s("stranger", 0) == 0.0

    def test_a_slow_spell_is_forgotten_though_nobody_comes_meanwhile(self) -> None:
        """Callers who were kept away by it cannot show that it is over."""
        credit = known()
        credit.hand_over("model", 1)
        credit.answered("model", 1, 30.0, SECOND)
        assert credit.takes_s("model", 2 * SECOND) == 30.0
        assert credit.takes_s("model", 10 * SECOND) == 0.0

    def test_a_slow_spell_makes_it_no_deeper_afterwards(self) -> None:
        credit = known()
        slow_ns = serve(credit, SECOND, 4.0, 1.0, 20)
        fast_ns = serve(credit, slow_ns, 2.0, 0.05, 1)
        assert depth(credit, fast_ns) <= 2 * 20
        assert depth(credit, serve(credit, fast_ns, 10.0, 0.05, 1)) == LEAST
