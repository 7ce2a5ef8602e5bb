"""The baton is always in exactly one hand while anybody wants the work done, and nobody waits in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded
from sidecar.reuse.relay import Baton, Relay
from tests.reuse.making import FOREVER

Joined = Baton[str] | str


@pytest.fixture
def relay() -> Relay[str, str]:
    return Relay("too late for it")


async def joined(
    relay: Relay[str, str], count: int, deadline: Deadline = FOREVER
) -> list[asyncio.Task[Joined]]:
    """So many callers of the same work, each as far as it comes by itself."""
    tasks = [asyncio.create_task(relay.join("key", deadline)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def baton(relay: Relay[str, str]) -> Baton[str]:
    first = await relay.join("key", FOREVER)
    assert isinstance(first, Baton)
    return first


def held(outcome: Joined) -> Baton[str]:
    assert isinstance(outcome, Baton)
    return outcome


def idle(relay: Relay[str, str]) -> bool:
    now = relay.statistics()
    return (now.under_way, now.waiting) == (0, 0)


class TestOutcomes:
    async def test_the_first_has_the_baton_at_once_and_all_others_its_outcome(
        self, relay: Relay[str, str]
    ) -> None:
        doer = await baton(relay)
        followers = await joined(relay, 63)
        assert (relay.statistics().under_way, relay.statistics().waiting) == (1, 63)
        doer.finish("done")
        assert await asyncio.gather(*followers) == ["done"] * 63
        assert relay.statistics().given_total == 63
        assert idle(relay)

    async def test_another_key_is_other_work(self, relay: Relay[str, str]) -> None:
        one, other = await relay.join("one", FOREVER), await relay.join("other", FOREVER)
        held(one).finish("done")
        assert relay.about("one") is None
        assert relay.about("other") == b""
        held(other).leave()
        assert idle(relay)

    async def test_after_an_outcome_the_next_one_does_it_anew(self, relay: Relay[str, str]) -> None:
        (await baton(relay)).finish("done")
        (await baton(relay)).finish("again")
        assert idle(relay)

    async def test_a_baton_out_of_hand_does_nothing(self, relay: Relay[str, str]) -> None:
        first = await baton(relay)
        first.finish("done")
        second = await baton(relay)
        first.finish("twice")
        first.leave()
        (follower,) = await joined(relay, 1)
        assert not follower.done()
        second.leave()
        third = held(await follower)
        second.finish("late")
        assert relay.statistics().under_way == 1
        third.leave()
        assert idle(relay)

    async def test_what_was_said_of_the_work_is_told_as_long_as_it_is_under_way(
        self, relay: Relay[str, str]
    ) -> None:
        first = held(await relay.join("key", FOREVER, b"so"))
        follower = asyncio.create_task(relay.join("key", FOREVER, b"ignored"))
        await asyncio.sleep(0)
        first.leave()
        assert relay.about("key") == b"so"
        held(await follower).leave()
        assert relay.about("key") is None


class TestHandingOn:
    async def test_a_doer_without_an_outcome_hands_it_to_who_waited_longest(
        self, relay: Relay[str, str]
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            with await baton(relay):
                followers = await joined(relay, 3)
                _ = 1 / 0
        second = held(await followers[0])
        assert not followers[1].done()
        with second:
            second.finish("done")
        assert [await followers[1], await followers[2]] == ["done", "done"]
        assert relay.statistics().handed_on_total == 1
        assert idle(relay)

    async def test_who_left_is_passed_over(self, relay: Relay[str, str]) -> None:
        first = await baton(relay)
        followers = await joined(relay, 3)
        followers[0].cancel()
        first.leave()  # before the one who left ran
        second = held(await followers[1])
        second.finish("done")
        assert await followers[2] == "done"
        assert followers[0].cancelled()
        assert idle(relay)

    async def test_who_leaves_with_the_baton_on_the_way_hands_it_on(self, relay: Relay[str, str]) -> None:
        first = await baton(relay)
        followers = await joined(relay, 2)
        first.leave()
        followers[0].cancel()  # after it was handed the baton, before it ran
        held(await followers[1]).finish("done")
        await asyncio.gather(*followers, return_exceptions=True)
        assert followers[0].cancelled()
        assert idle(relay)

    async def test_when_all_leave_nothing_is_left(self, relay: Relay[str, str]) -> None:
        first = await baton(relay)
        followers = await joined(relay, 5)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        assert relay.statistics().waiting == 0
        assert not relay._legs["key"].turns
        first.leave()
        assert idle(relay)


class TestDeadlines:
    async def test_everyone_waits_by_a_deadline_of_their_own(self, relay: Relay[str, str]) -> None:
        first = await baton(relay)
        (patient,) = await joined(relay, 1)
        with pytest.raises(DeadlineExceeded, match="too late for it") as late:
            await relay.join("key", Deadline.after(0.01))
        assert late.value.facts["stage"] == "admit"
        assert relay.statistics().waiting == 1
        first.finish("done")
        assert await patient == "done"
        assert idle(relay)

    async def test_who_is_late_already_does_not_wait(self, relay: Relay[str, str]) -> None:
        first = await baton(relay)
        with pytest.raises(DeadlineExceeded):
            await relay.join("key", Deadline.after(0))
        first.leave()
        assert idle(relay)


class Game:
    """Callers of one work, played by a list of actions; who follows without being an heir among them."""

    def __init__(self) -> None:
        self.given = 0
        self.received = 0
        self.relay: Relay[str, str] = Relay("late", self.give, self.take_back)
        self.heirs: list[asyncio.Task[Joined]] = []
        self.others: list[asyncio.Task[str | None]] = []
        self.batons: list[Baton[str]] = []
        self.begun = False

    def give(self, _: str) -> None:
        self.given += 1

    def take_back(self, _: str) -> None:
        self.given -= 1

    async def act(self, action: str, which: int) -> None:
        tasks = [*self.heirs, *self.others]
        match action:
            case "join":
                self.heirs.append(asyncio.create_task(self.relay.join("key", FOREVER)))
            case "follow":
                self.others.append(asyncio.create_task(self.relay.follow("key", FOREVER)))
            case "cancel" if tasks:
                tasks[which % len(tasks)].cancel()
            case "turn":
                await self.collect()
            case "begin" | "finish" | "leave" if self.batons:
                self.use(action)

    def use(self, action: str) -> None:
        """Of the baton."""
        match action:
            case "begin":
                self.batons[0].begin()
            case "finish":
                self.batons.pop().finish("done")
            case "leave":
                self.batons.pop().leave()
        self.begun = action == "begin"

    async def collect(self) -> None:
        """Has everyone told what became of their wait, and looks at the whole."""
        for _ in range(3):
            await asyncio.sleep(0)
        for outcome in [*ended(self.heirs), *ended(self.others)]:
            if isinstance(outcome, Baton):
                self.batons.append(outcome)
            elif outcome is not None:
                self.received += 1
        now = self.relay.statistics()
        assert len(self.batons) == now.under_way <= 1
        assert now.waiting == len(self.heirs) + len(self.others)
        assert self.batons or not (self.heirs or self.others)
        assert self.begun or not self.others
        assert self.given == self.received


def ended(tasks: list[Any]) -> list[Any]:
    """What those were told that are done; they are taken out."""
    done = [task for task in tasks if task.done()]
    for task in done:
        tasks.remove(task)
    return [task.result() for task in done if not task.cancelled()]


ACTIONS = st.tuples(
    st.sampled_from(["join", "follow", "cancel", "begin", "finish", "leave", "turn"]), st.integers(0, 99)
)


@given(st.lists(ACTIONS, max_size=60))
@settings(deadline=None)
def test_whatever_callers_do_one_works_and_everyone_is_answered(actions: Sequence[tuple[str, int]]) -> None:
    async def play() -> None:
        game = Game()
        for action, which in actions:
            await game.act(action, which)
        await game.collect()
        while game.batons:
            game.use("leave")
            await game.collect()
        assert idle(game.relay)

    asyncio.run(play())
