"""Load: closed loops to find capacity, open ones to find latency, and the statistics of both. No transport.

A closed loop keeps so many calls in flight and tells how fast they were answered; its latencies mean nothing,
because a slow server slows its own load. An open loop sends by a schedule drawn beforehand, whatever the
server does, and counts each latency from the moment that the schedule says, so that a stall is paid by
everyone who would have come in it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

Call = Callable[[int], Awaitable[bytes]]
"""One call, by its number; what it raises ends the measurement."""


# For the clockwork's thread to be up before the first call is due.
_HEAD_START_S = 0.01


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds a call, from its scheduled moment to its answer; and from that moment to its sending."""

    taken_s: tuple[float, ...]
    lag_s: tuple[float, ...]

    def __add__(self, other: Latencies) -> Latencies:
        return Latencies(self.taken_s + other.taken_s, self.lag_s + other.lag_s)


async def closed_loop(call: Call, in_flight: int, count: int) -> float:
    """Makes `count` calls, `in_flight` at a time, and returns the seconds that they took together."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(in_flight):
            callers.create_task(caller())
    return time.perf_counter() - begun


async def open_loop(call: Call, schedule: Sequence[float]) -> Latencies:
    """Begins call `n` at `schedule[n]` seconds from now, however the others fare, and waits for all.

    The clockwork is a thread that sleeps to the microsecond, where an event loop's timers know
    milliseconds. How late it was is in the result.
    """
    loop = asyncio.get_running_loop()
    taken, lags = [0.0] * len(schedule), [0.0] * len(schedule)
    begun = time.perf_counter() + _HEAD_START_S

    async def one(number: int) -> None:
        due = begun + schedule[number]
        lags[number] = time.perf_counter() - due
        await call(number)
        taken[number] = time.perf_counter() - due

    async with asyncio.TaskGroup() as calls:

        def begin(number: int) -> None:
            calls.create_task(one(number))

        def clockwork() -> None:
            for number, after in enumerate(schedule):
                time.sleep(max(0.0, begun + after - time.perf_counter()))
                loop.call_soon_threadsafe(begin, number)

        await asyncio.to_thread(clockwork)
    return Latencies(tuple(taken), tuple(lags))


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments of arrivals at `rate` a second over `seconds`, independent of each other; the same for a seed."""
    draws = np.random.default_rng(seed)
    # Half as many again as are expected, and some, never run out before `seconds` by any seed that is used.
    gaps = draws.exponential(1 / rate, int(rate * seconds * 1.5) + 32)
    moments = np.cumsum(gaps)
    return [float(moment) for moment in moments[moments < seconds]]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not pass."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    return statistics.median(values)
