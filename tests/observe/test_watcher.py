"""The watcher: accounts are kept in step with the journal, and whatever fails beside it, watching goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from sidecar.errors import UpstreamUnavailable, UpstreamUnimplemented
from sidecar.media import Modality
from sidecar.observe import watcher as watchers
from sidecar.observe.advice import Alternatives
from sidecar.observe.journal import Handover, Journal, Passage
from sidecar.observe.picture import Fleet
from sidecar.observe.starvation import Counters, State
from sidecar.observe.timings import Stage, Timeline
from sidecar.observe.watcher import UpstreamFacts, VerdictConfig, Watcher

MS = 1_000_000


@dataclass
class Around:
    """Surroundings that tell what a test says."""

    problem: Exception | None = None
    asked: int = 0
    models: dict[str, UpstreamFacts] = field(default_factory=lambda: {"model": UpstreamFacts(("clip",))})

    def upstreams(self) -> Mapping[str, UpstreamFacts]:
        return self.models

    async def counters(self, upstream: str, version: str, timeout_s: float) -> Counters:  # noqa: ARG002 - the protocol's
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return Counters(time.monotonic_ns(), MS, self.asked, self.asked, self.asked, 0, MS, 0)

    def fleet(self) -> Fleet:
        return Fleet(1, {Modality.IMAGE: 1}, 0, 0, 0, 0)

    def pids(self) -> Sequence[int]:
        return ()

    def sends_bytes(self) -> bool:
        return False

    def alternatives(self, models: Sequence[str]) -> tuple[Alternatives, ...]:  # noqa: ARG002 - the protocol's
        return ()


def call(journal: Journal, *, delivered: bool = True) -> Passage:
    """One that came just now, was decoded for a while, and was answered."""
    now = time.monotonic_ns()
    timeline = Timeline(now - 30 * MS)
    timeline.add(Stage.DECODE, now - 29 * MS, now - 10 * MS)
    handovers = [Handover(1, now - 10 * MS, now - MS, now - MS)] if delivered else []
    made = Passage("infer", "clip", "model" if delivered else "", Modality.IMAGE, timeline, (), handovers)
    journal.begin(made)
    journal.end(made, "OK")
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "_TURN_S", 0.01)
    monkeypatch.setattr(watchers, "_SOON_S", 0.01)
    monkeypatch.setattr(watchers, "_SETTLED_NS", 10 * MS)


async def turns(watcher: Watcher, count: int) -> None:
    async with asyncio.timeout(10):
        for _ in range(count):
            await watcher.turned()


async def test_what_is_settled_grows_with_the_clock_and_adds_up() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    begun = time.monotonic_ns()
    watcher.open()
    for _ in range(5):
        call(journal)
        await turns(watcher, 1)
    total = watcher.totals()["model"]
    await watcher.close()
    lived = (time.monotonic_ns() - begun) / 1e9
    assert 0 < sum(total.states.values()) <= lived
    assert total.states[State.IDLE_PREP] == pytest.approx(sum(total.starved.values()), abs=1e-6)


async def test_a_server_that_does_not_count_is_asked_once() -> None:
    around, journal = Around(UpstreamUnimplemented("no statistics")), Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, around)
    watcher.open()
    for _ in range(4):
        call(journal)
        await turns(watcher, 1)
    (view,) = watcher.picture().upstreams
    await watcher.close()
    assert around.asked == 1
    assert not view.counted


async def test_a_server_that_is_away_is_asked_again() -> None:
    around, journal = Around(UpstreamUnavailable("away")), Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, around)
    watcher.open()
    for _ in range(4):
        call(journal)
        await turns(watcher, 1)
    await watcher.close()
    assert around.asked > 1


async def test_a_server_that_nobody_asked_is_not_asked_what_it_counted() -> None:
    around = Around()
    watcher = Watcher(VerdictConfig(), Journal(queues=False), around)
    watcher.open()
    await turns(watcher, 3)
    await watcher.close()
    assert around.asked == 0


async def test_sinks_are_given_every_call_once_the_last_ones_when_it_ends() -> None:
    told: list[Passage] = []
    journal = Journal()
    watcher = Watcher(VerdictConfig(), journal, Around(), [told.extend])
    watcher.open()
    first = call(journal)
    await turns(watcher, 2)
    last = call(journal, delivered=False)
    await watcher.close()
    assert told == [first, last]


async def test_a_sink_that_fails_is_told_and_costs_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_ended: Sequence[Passage]) -> None:
        raise RuntimeError("full disk")

    told: list[Passage] = []
    journal = Journal()
    watcher = Watcher(VerdictConfig(), journal, Around(), [broken, told.extend])
    watcher.open()
    with caplog.at_level(logging.ERROR):
        made = call(journal)
        await turns(watcher, 2)
    await watcher.close()
    assert told == [made]
    assert "could not be told" in caplog.text


async def test_a_machine_that_cannot_be_looked_at_is_told_and_turns_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Around):
        turn = 0

        def pids(self) -> Sequence[int]:
            self.turn += 1
            if self.turn == 1:
                raise RuntimeError("gone")
            return ()

    watcher = Watcher(VerdictConfig(), Journal(queues=False), Broken())
    watcher.open()
    await turns(watcher, 2)
    await watcher.close()
    assert "cannot be looked at" in caplog.text


async def test_what_worker_processes_used_is_told_over_the_window_like_all_else() -> None:
    class Working(Around):
        def pids(self) -> Sequence[int]:
            return (os.getpid(),)

    watcher = Watcher(VerdictConfig(), Journal(queues=False), Working())
    watcher.open()
    assert watcher.picture().workers == ()
    await turns(watcher, 3)
    picture = watcher.picture(60)
    await watcher.close()
    assert picture.spell is not None
    (worker,) = picture.workers
    assert worker.pid == os.getpid()
    assert worker.cores == pytest.approx(picture.spell.workers, abs=0.01)


async def test_disabled_it_keeps_no_accounts_and_serves_sinks() -> None:
    told: asyncio.Queue[int] = asyncio.Queue()
    journal, around = Journal(), Around()
    watcher = Watcher(
        VerdictConfig(enabled=False), journal, around, [lambda calls: told.put_nowait(len(calls))]
    )
    watcher.open()
    call(journal)
    async with asyncio.timeout(10):
        assert await told.get() == 1
    await watcher.close()
    assert (watcher.totals(), around.asked) == ({}, 0)


async def test_watching_is_ended_and_begun_while_calls_are_under_way() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    call(journal)
    await turns(watcher, 2)
    begun_before = Passage("infer", "clip", "model", Modality.IMAGE, Timeline(), (), ())
    journal.begin(begun_before)
    waits = asyncio.create_task(watcher.turned())
    await asyncio.sleep(0)
    watcher.reconfigure(VerdictConfig(enabled=False))
    async with asyncio.timeout(10):
        await waits  # who waits for something new is let go
    assert (watcher.watches, watcher.totals(), journal.kept) == (False, {}, False)
    journal.end(begun_before, "OK")
    call(journal)
    begun_between = Passage("infer", "clip", "model", Modality.IMAGE, Timeline(), (), ())
    journal.begin(begun_between)
    assert not journal.under_way
    watcher.reconfigure(VerdictConfig())
    journal.end(begun_between, "OK")
    await turns(watcher, 3)
    await watcher.close()
    assert watcher.picture(60).demand.calls == 1
    assert set(watcher.totals()) == {"model"}


async def test_a_call_whose_message_is_still_coming_holds_the_settling_up_for_a_while() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    await turns(watcher, 1)
    journal.arrive()
    await turns(watcher, 3)
    held = sum(watcher.totals()["model"].states.values())
    await turns(watcher, 5)
    later = sum(watcher.totals()["model"].states.values())
    await watcher.close()
    assert later == pytest.approx(held, abs=1e-6)


async def test_the_bell_looks_at_the_last_half_second_whatever_holds_the_settling_up() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    await turns(watcher, 1)
    journal.arrive()
    async with asyncio.timeout(10):
        while watcher._upstreams["model"].tail.span_ns < 600 * MS:  # noqa: ASYNC110 - turns are not events of ours
            await asyncio.sleep(0.02)
    latest = watcher._upstreams["model"].latest
    await watcher.close()
    assert latest.span_ns == pytest.approx(500 * MS, abs=MS)


async def test_while_nobody_looks_little_is_settled_and_who_asks_sees_all() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    for _ in range(30):
        call(journal)
        await asyncio.sleep(0.01)
    turned = watcher.turns
    await watcher.fresh()
    demand = watcher.picture().demand
    await watcher.close()
    assert turned < 6  # as it began, as demand came, as the bell was about to ring
    assert watcher.turns == turned + 1
    assert demand.calls == 30


async def test_many_calls_are_settled_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "_MOST_NOTED", 10)
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    async with asyncio.timeout(10):
        while watcher.turns < 4:
            for _ in range(20):
                call(journal)
            await asyncio.sleep(0.01)
    await watcher.close()


async def test_an_alarm_is_raised_though_nobody_looks() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    journal.begin(Passage("infer", "clip", "model", Modality.IMAGE, Timeline(time.monotonic_ns()), (), []))
    async with asyncio.timeout(10):
        while not watcher.totals()["model"].alarm:  # noqa: ASYNC110 - a bell is no event
            await asyncio.sleep(0.01)
    await watcher.close()


async def test_an_observer_on_another_thread_sees_what_is_fresh() -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    await turns(watcher, 1)
    turned = watcher.turns
    await asyncio.sleep(0.02)
    await asyncio.to_thread(watcher.refresh)
    assert watcher.turns > turned
    watcher.refresh()  # on the loop's own thread nobody can wait for it
    await watcher.close()


async def test_its_own_cpu_time_is_counted() -> None:
    watcher = Watcher(VerdictConfig(), Journal(queues=False), Around())
    watcher.open()
    await turns(watcher, 3)
    await watcher.close()
    assert watcher.turns >= 3
    assert 0 < watcher.spent_ns < 1e9


async def test_an_alarm_is_logged_when_it_is_raised_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal(queues=False)
    watcher = Watcher(VerdictConfig(), journal, Around())
    watcher.open()
    now = time.monotonic_ns()
    starving = Passage("infer", "clip", "model", Modality.IMAGE, Timeline(now), (), [])
    journal.begin(starving)
    with caplog.at_level(logging.INFO):
        await turns(watcher, 5)
        assert watcher.totals()["model"].alarm
        journal.end(starving, "OK")
        await turns(watcher, 5)
    await watcher.close()
    assert "alarm: model" in caplog.text
    assert "is over" in caplog.text
