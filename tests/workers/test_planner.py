"""The plan while the server runs: budget, settings and hands move it, and what cannot be leaves it as it is."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace

import pytest

from sidecar.errors import SettingsError
from sidecar.workers import planner as planners
from sidecar.workers.budget import Budget
from sidecar.workers.plan import ThreadPlan, ThreadsConfig
from sidecar.workers.planner import Planner, Wanted

FOUR = Budget(cpus=(0, 1, 2, 3), quota=None, memory_bytes=8 << 30)
OWN = Wanted(ThreadsConfig())


def opened(wanted: Wanted = OWN, budget: Budget = FOUR) -> tuple[Planner, list[ThreadPlan]]:
    """A planner, and what it has applied since."""
    applied: list[ThreadPlan] = []
    planner = Planner(wanted, budget)
    planner.apply = applied.append
    return planner, applied


def test_a_number_set_by_hand_is_in_force_and_given_back() -> None:
    planner, applied = opened()
    assert planner.set({"threads.image": 2}).image_threads == 2
    assert planner.set({"threads.image": None}).image_threads == 4
    assert [plan.image_threads for plan in applied] == [2, 4]
    assert [change.why for change in planner.changes] == ["the server started", "by hand", "by hand"]
    assert planner.moved == 2


def test_hands_win_over_settings_and_settings_over_the_budget() -> None:
    planner, _ = opened(Wanted(ThreadsConfig(image=3, audio=3)))
    planner.set({"threads.image": 1})
    planner.notice(replace(FOUR, quota=1.5))
    assert (planner.plan.image_threads, planner.plan.audio_threads) == (1, 3)


def test_what_cannot_be_changes_nothing() -> None:
    planner, applied = opened()
    before = planner.plan
    with pytest.raises(SettingsError, match="only wait for each other"):
        planner.set({"threads.audio": 1, "threads.image": 999})
    assert planner.plan == before
    assert not applied
    assert planner.set({}) == before  # nothing of it was kept


def test_a_budget_that_shrinks_and_grows_takes_the_plan_along(caplog: pytest.LogCaptureFixture) -> None:
    planner, applied = opened()
    with caplog.at_level(logging.INFO):
        planner.notice(replace(FOUR, quota=2.0))
        planner.notice(replace(FOUR, quota=2.0))
        planner.notice(FOUR)
    assert [plan.image_threads for plan in applied] == [2, 4]
    assert "the budget is 2 cores" in caplog.text


def test_numbers_that_a_smaller_budget_does_not_allow_are_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    planner, applied = opened(Wanted(ThreadsConfig(image=30)))
    planner.notice(replace(FOUR, cpus=(0,)))
    assert [plan.image_threads for plan in applied] == [1]
    assert "`threads.image` has the value 30" in caplog.text


def test_settings_read_anew_take_the_place_of_hands() -> None:
    planner, _ = opened()
    planner.set({"threads.image": 1})
    planner.reconfigure(Wanted(ThreadsConfig(audio=3)))
    assert (planner.plan.image_threads, planner.plan.audio_threads) == (4, 3)
    planner.set({"threads.image": 1})
    planner.reconfigure(Wanted(ThreadsConfig(audio=3)))  # the same again says nothing new
    assert planner.plan.image_threads == 1


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 2)])
def test_processes_cannot_become_threads_while_running(before: int, after: int) -> None:
    planner, applied = opened(Wanted(ThreadsConfig(), before))
    with pytest.raises(SettingsError, match="restart"):
        planner.set({"workers.processes": after})
    assert not applied


def test_cpus_are_kept_to_where_they_are_this_containers_alone() -> None:
    alone = replace(FOUR, exclusive=True)
    assert [Planner(Wanted(ThreadsConfig(), pin=True), alone).plan.cpus_of(number) for number in range(4)] == [
        (0,), (1,), (2,), (3,),
    ]  # fmt: skip
    two = Planner(Wanted(ThreadsConfig(), 2, pin=True), alone).plan
    assert [two.cpus_of(number) for number in range(2)] == [(0, 2), (1, 3)]
    assert Planner(Wanted(ThreadsConfig(), pin=True), FOUR).plan.cpus_of(0) == ()
    assert Planner(OWN, alone).plan.cpus_of(0) == ()


async def test_a_budget_is_noticed_while_running_and_one_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planners, "_LOOK_S", 0.001)
    found: list[OSError | Budget] = [OSError("away"), replace(FOUR, quota=1.0)]

    def look() -> Budget:
        each = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(each, OSError):
            raise each
        return each

    planner, moved = Planner(OWN, FOUR, look), asyncio.Event()
    planner.apply = lambda _plan: moved.set()
    watching = asyncio.create_task(planner.watch())
    async with asyncio.timeout(10):
        await moved.wait()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert planner.plan.image_threads == 1
    assert "cannot be read: away" in caplog.text
