"""Other people's rules of admission: each is held to its published law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.policies import POLICIES, CoDel, Fifo, FixedLimit, Gradient2, Gradient2Constants
from sidecar.media import Cost, Modality
from sidecar.stages.admit.turns import Asker, Drop, Turns, Work

MS = 1_000_000
S = 1000 * MS


def work(modality: Modality = Modality.IMAGE, nbytes: int = 1000) -> Work:
    return Work(Asker(modality, "model"), Cost(10.0, 0), nbytes)


def yes(_: Work) -> bool:
    return True


def joined(turns: Turns, count: int, now_ns: int = 0) -> list[Work]:
    works = [work() for _ in range(count)]
    for one in works:
        turns.join(one, now_ns)
    return works


def begun(turns: Turns, now_ns: int = 0, may: Callable[[Work], bool] = yes) -> Work:
    found = turns.begin(now_ns, may)
    assert found is not None
    return found


class TestFifo:
    def test_turns_come_in_order_of_arrival(self) -> None:
        turns = Fifo()
        works = joined(turns, 3)
        assert [begun(turns) for _ in range(3)] == works
        assert turns.begin(0, yes) is None

    def test_nobody_overtakes_one_who_may_not_begin_yet(self) -> None:
        turns = Fifo()
        first, _ = joined(turns, 2)
        assert turns.begin(0, lambda one: one is not first) is None

    def test_a_modality_does_not_wait_for_another(self) -> None:
        turns = Fifo()
        picture, sound = work(), work(Modality.AUDIO)
        turns.join(picture, 0)
        turns.join(sound, 1)
        assert begun(turns, 2, lambda one: one is sound) is sound

    def test_who_leaves_has_no_turn(self) -> None:
        turns = Fifo()
        first, second = joined(turns, 2)
        turns.leave(first, 0)
        assert begun(turns) is second

    def test_bytes_beyond_memory_are_refused_and_a_first_is_never(self) -> None:
        turns = Fifo(most_bytes=1500)
        assert turns.judge([work(nbytes=9999)], 0).refusal is None
        joined(turns, 1)
        refusal = turns.judge([work()], 0).refusal
        assert refusal is not None
        assert "2000 bytes" in refusal.why
        begun(turns)
        assert turns.judge([work()], 0).refusal is None

    def test_however_many_come_they_are_let_in(self) -> None:
        turns = Fifo()
        joined(turns, 5000)
        assert turns.full(work().asker, 1, 0) is None


class TestFixedLimit:
    def test_the_one_past_the_limit_is_refused_whether_they_wait_or_run(self) -> None:
        turns = FixedLimit(16)
        joined(turns, 15)
        begun(turns)
        assert turns.full(work().asker, 1, 0) is None
        joined(turns, 1)
        refusal = turns.full(work().asker, 1, 0)
        assert refusal is not None
        assert "16 may be" in refusal.why

    def test_an_end_and_a_leave_make_room(self) -> None:
        turns = FixedLimit(2)
        first, second = joined(turns, 2)
        assert begun(turns) is first
        turns.ended(first, 10.0, S)
        assert turns.full(work().asker, 1, S) is None
        assert turns.full(work().asker, 2, S) is not None
        turns.leave(second, S)
        assert turns.full(work().asker, 2, S) is None


class TestCoDel:
    """Target 20 ms, interval 100 ms: in an overload, what waited more than 40 ms is dropped."""

    def waited(self, turns: CoDel, wait_ms: float, at_ms: float) -> Drop | None:
        """One item that joined so long ago has its turn."""
        one = work()
        turns.join(one, int((at_ms - wait_ms) * MS))
        found = turns.drop(one, int(at_ms * MS))
        begun(turns, int(at_ms * MS))
        turns.ended(one, 0.0, int(at_ms * MS))
        return found

    def overloaded(self) -> CoDel:
        """At 300 ms, after an interval in which nobody waited less than 30 ms."""
        turns = CoDel()
        for at_ms in (100, 150, 200, 260, 300):
            self.waited(turns, 30, at_ms)
        return turns

    def test_long_waits_pass_while_somebody_waited_less_than_the_target(self) -> None:
        turns = CoDel()
        waits = [(19.0, 100), (500.0, 110), (10.0, 120), (500.0, 210), (10.0, 230), (500.0, 250)]
        assert [self.waited(turns, wait, at) for wait, at in waits] == [None] * 6

    def test_after_an_interval_of_long_waits_what_waited_twice_the_target_is_dropped(self) -> None:
        turns = self.overloaded()
        assert self.waited(turns, 41, 310) is Drop.STALE
        assert self.waited(turns, 40, 320) is None

    def test_an_intervals_first_is_never_dropped(self) -> None:
        turns = self.overloaded()
        assert self.waited(turns, 500, 311) is Drop.STALE
        assert self.waited(turns, 500, 500) is None
        assert self.waited(turns, 500, 501) is Drop.STALE

    def test_one_short_wait_in_an_interval_ends_the_overload(self) -> None:
        turns = self.overloaded()
        assert self.waited(turns, 5, 312) is None
        self.waited(turns, 30, 500)
        assert self.waited(turns, 500, 501) is None

    def test_asking_changes_nothing(self) -> None:
        turns = self.overloaded()
        one = work()
        turns.join(one, 250 * MS)
        assert {turns.drop(one, 310 * MS) for _ in range(3)} == {Drop.STALE}


class TestGradient2:
    CONSTANTS = Gradient2Constants()

    def window(self, turns: Gradient2, start_s: float, taken_s: float, count: int) -> None:
        """So many items at once, each taking so long, and one later that closes the window."""
        works = joined(turns, count, int(start_s * S))
        for one in works:
            assert begun(turns, int(start_s * S)) is one
        for one in works:
            turns.ended(one, 1.0, int((start_s + taken_s) * S))

    def filled(self) -> Gradient2:
        """A window has been closed: the next sample that is a second later closes another."""
        turns = Gradient2()
        self.window(turns, 0.0, 0.1, 1)
        return turns

    def test_it_begins_at_twenty(self) -> None:
        turns = Gradient2()
        joined(turns, 19)
        assert turns.full(work().asker, 1, 0) is None
        assert turns.full(work().asker, 2, 0) is not None

    def test_while_times_stay_it_grows_by_smoothing_times_queue(self) -> None:
        turns = self.filled()
        limits = []
        for number in range(1, 4):
            # All but the last lie within the second, so that a window holds 20 of them.
            self.window(turns, number * 2.0 - 1.5, 0.1, 19)
            self.window(turns, number * 2.0, 0.1, 1)
            limits.append(turns._state.limit)
        assert limits == pytest.approx([20.8, 21.6, 22.4])

    def test_times_beyond_the_tolerance_shrink_it_by_the_gradient(self) -> None:
        turns = self.filled()
        for _ in range(40):
            turns._update(0.1 * S, 200)
        before, long = turns._state.limit, turns._state.long.value
        turns._update(0.3 * S, 200)
        mean = long + 2 / 601 * (0.3 * S - long)
        gradient = 1.5 * mean / (0.3 * S)
        assert 0.5 < gradient < 1
        expected = 0.8 * before + 0.2 * (before * gradient + 4)
        assert turns._state.limit == pytest.approx(expected)

    def test_no_window_shrinks_it_to_less_than_the_gradients_half_or_the_least(self) -> None:
        turns = self.filled()
        for _ in range(40):
            turns._update(0.1 * S, 200)
        before = turns._state.limit
        turns._update(100.0 * S, 200)
        assert turns._state.limit == pytest.approx(0.8 * before + 0.2 * (before / 2 + 4))
        for _ in range(100):
            turns._update(100.0 * S, 200)
            turns._state.long.value = 0.1 * S
        assert turns.limit == self.CONSTANTS.least

    def test_it_never_grows_past_the_most(self) -> None:
        turns = self.filled()
        for _ in range(2000):
            turns._update(0.1 * S, 200)
        assert turns.limit == self.CONSTANTS.most

    def test_it_stays_while_less_than_half_of_it_is_used(self) -> None:
        turns = self.filled()
        turns._update(0.1 * S, 9)
        assert turns._state.limit == 20

    def test_a_window_with_few_samples_changes_nothing(self) -> None:
        turns = self.filled()
        self.window(turns, 0.5, 0.1, 8)
        self.window(turns, 2.0, 0.1, 1)
        assert turns._state.limit == 20

    def test_the_long_mean_sinks_faster_while_it_is_twice_the_short_one(self) -> None:
        turns = self.filled()
        turns._state.long.value, turns._state.long.count = 1.0 * S, 11
        turns._update(0.1 * S, 9)
        assert turns._state.long.value == pytest.approx((1.0 + 2 / 601 * (0.1 - 1.0)) * 0.95 * S)

    def test_who_leaves_counts_with_the_time_that_he_waited(self) -> None:
        turns = Gradient2()
        (one,) = joined(turns, 1)
        turns.leave(one, 2 * S)
        assert turns.inside == 0
        assert turns._state.next_ns == 3 * S


@given(st.sampled_from(sorted(POLICIES)), st.lists(st.sampled_from("jjjble"), max_size=80))
def test_every_policy_gives_every_item_one_turn_at_most(name: str, steps: list[str]) -> None:
    turns = POLICIES[name](2)
    waiting: list[Work] = []
    running: list[Work] = []
    for at, step in enumerate(steps):
        now_ns = at * 10 * MS
        if step == "j":
            one = work()
            if turns.full(one.asker, 1, now_ns) is None and turns.judge([one], now_ns).refusal is None:
                turns.join(one, now_ns)
                waiting.append(one)
        elif step == "b" and (found := turns.begin(now_ns, yes)) is not None:
            waiting.remove(found)
            running.append(found)
        elif step == "l" and waiting:
            turns.leave(waiting.pop(), now_ns)
        elif step == "e" and running:
            turns.ended(running.pop(0), 1.0, now_ns)
    while (found := turns.begin(100 * S, yes)) is not None:
        waiting.remove(found)
    assert waiting == []
