"""Load: schedules, loops and statistics."""

from __future__ import annotations

import asyncio
import time

import pytest

from bench.load import Latencies, closed_loop, median, open_loop, percentile, poisson


class TestStatistics:
    def test_a_percentile_is_a_value_that_was_measured(self) -> None:
        values = [float(value) for value in range(1, 101)]
        assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)

    def test_a_percentile_of_one_value_is_that_value(self) -> None:
        assert percentile([7.0], 99) == 7.0

    def test_a_median_is_the_middle(self) -> None:
        assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)


class TestPoisson:
    def test_a_seed_gives_the_same_moments_again(self) -> None:
        assert poisson(50, 2, 1) == poisson(50, 2, 1)
        assert poisson(50, 2, 1) != poisson(50, 2, 2)

    def test_moments_rise_and_stay_within_the_time(self) -> None:
        moments = poisson(80, 3, 0)
        assert moments == sorted(moments)
        assert moments[0] > 0
        assert moments[-1] < 3

    def test_there_are_as_many_as_the_rate_says(self) -> None:
        counts = [len(poisson(100, 10, seed)) for seed in range(20)]
        # The mean of 20 counts of 1000 has a standard deviation of 7.
        assert abs(sum(counts) / len(counts) - 1000) < 30


async def test_a_closed_loop_makes_every_call_once_and_no_more_at_a_time_than_allowed() -> None:
    under_way, most, made = 0, 0, []

    async def call(number: int) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        made.append(number)
        under_way -= 1
        return b""

    assert await closed_loop(call, 3, 20) > 0
    assert (sorted(made), most) == (list(range(20)), 3)


async def test_an_open_loop_sends_on_while_answers_are_late_and_counts_from_the_schedule() -> None:
    answered = asyncio.Event()
    begun: list[int] = []

    async def call(number: int) -> bytes:
        begun.append(number)
        if len(begun) == 3:
            answered.set()
        await answered.wait()
        return b""

    found = await open_loop(call, [0.0, 0.01, 0.02])
    assert sorted(begun) == [0, 1, 2]
    # The first waited for the third, which was sent 20 ms later.
    assert found.taken_s[0] >= 0.02
    assert min(found.lag_s) >= 0


async def test_a_call_that_fails_ends_an_open_loop() -> None:
    async def call(number: int) -> bytes:
        raise ValueError(number)

    with pytest.raises(ExceptionGroup):
        await open_loop(call, [0.0])


def test_latencies_of_rounds_add_up() -> None:
    assert Latencies((1.0,), (0.1,)) + Latencies((2.0,), (0.2,)) == Latencies((1.0, 2.0), (0.1, 0.2))


def test_the_clockwork_is_on_time_to_a_few_milliseconds() -> None:
    async def call(_: int) -> bytes:
        return b""

    begun = time.perf_counter()
    found = asyncio.run(open_loop(call, poisson(200, 0.3, 0)))
    assert time.perf_counter() - begun >= 0.2
    assert median(found.lag_s) < 0.01
