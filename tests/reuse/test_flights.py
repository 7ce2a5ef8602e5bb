"""Identical items are prepared once, and nobody pays for a leader who left."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.arena.arena import Arena
from sidecar.deadline import Deadline
from sidecar.errors import (
    CallCancelled,
    CorruptMedia,
    DeadlineExceeded,
    InternalError,
    MediaTooLarge,
    Overloaded,
    SidecarError,
    UnsupportedMedia,
)
from sidecar.reuse.cache import CacheConfig, ResultCache
from sidecar.reuse.flights import Flights, Lead
from sidecar.reuse.prepared import Prepared
from tests.reuse.making import FOREVER, address, bytes_of, made


@pytest.fixture
def flights() -> Flights:
    return Flights()


async def lead(flights: Flights, label: str = "item 0") -> Lead:
    first = await flights.join(address(1), label, FOREVER)
    assert isinstance(first, Lead)
    return first


async def following(flights: Flights, *labels: str) -> list[asyncio.Task[Lead | Prepared]]:
    tasks = [asyncio.create_task(flights.join(address(1), label, FOREVER)) for label in labels]
    await asyncio.sleep(0)
    return tasks


def idle(flights: Flights) -> bool:
    now = flights.statistics()
    return (now.under_way, now.following) == (0, 0)


class TestSharing:
    async def test_64_identical_calls_at_once_do_the_work_once(self, flights: Flights, arena: Arena) -> None:
        works = 0

        async def call() -> bytes:
            nonlocal works
            found = await flights.join(address(1), "item 0", FOREVER)
            if isinstance(found, Lead):
                with found:
                    works += 1
                    await asyncio.sleep(0)
                    prepared = made(arena, cpu_ms=2.0, fill=7)
                    found.land(prepared)
                    found_bytes = bytes_of(prepared)
                    prepared.lease.release()
                    return found_bytes
            seen = bytes_of(found)
            found.lease.release()
            return seen

        answers = await asyncio.gather(*(call() for _ in range(64)))
        assert (works, set(answers)) == (1, {bytes([7]) * 4096})
        now = flights.statistics()
        assert (now.shared_total, now.saved_cpu_ms_total, now.handed_on_total) == (63, 126.0, 0)
        assert idle(flights)

    async def test_between_landing_and_the_cache_nobody_finds_neither(
        self, flights: Flights, arena: Arena
    ) -> None:
        cache = ResultCache(CacheConfig(), arena)
        works = 0

        async def call(delay: int) -> None:
            nonlocal works
            for _ in range(delay):
                await asyncio.sleep(0)
            found = cache.find(address(1)) or await flights.join(address(1), "item 0", FOREVER)
            if isinstance(found, Lead):
                with found:
                    works += 1
                    await asyncio.sleep(0)
                    prepared = made(arena)
                    cache.keep(address(1), prepared)
                    found.land(prepared)
                    prepared.lease.release()
            else:
                found.lease.release()

        await asyncio.gather(*(call(delay) for delay in range(20)))
        assert works == 1
        cache.close()

    async def test_a_follower_s_tensors_are_whole_after_the_leader_let_go(
        self, flights: Flights, arena: Arena
    ) -> None:
        leader = await lead(flights)
        (follower,) = await following(flights, "item 0")
        prepared = made(arena, fill=5)
        leader.land(prepared)
        prepared.lease.release()
        assert arena.statistics().leased == 1
        found = await follower
        assert isinstance(found, Prepared)
        assert bytes_of(found) == bytes([5]) * 4096
        found.lease.release()

    async def test_a_follower_who_left_as_it_landed_holds_nothing(
        self, flights: Flights, arena: Arena
    ) -> None:
        leader = await lead(flights)
        before, after = await following(flights, "item 0", "item 0")
        prepared = made(arena)
        before.cancel()
        leader.land(prepared)
        prepared.lease.release()
        after.cancel()
        await asyncio.gather(before, after, return_exceptions=True)
        assert before.cancelled()
        assert after.cancelled()
        assert arena.statistics().leased == 0
        assert idle(flights)

    async def test_one_leads_at_a_time_by_whichever_way(self, flights: Flights) -> None:
        with await lead(flights):
            assert flights.try_lead(address(1), "item 1") is None
            for other in (address(2), address(1, tenant="another")):
                leader = flights.try_lead(other, "item 1")
                assert leader is not None
                with leader:
                    assert flights.statistics().under_way == 2
        leader = flights.try_lead(address(1), "item 1")
        assert leader is not None
        (follower,) = await following(flights, "item 0")
        leader.fail(CorruptMedia("item 1 is cut short"))
        with pytest.raises(CorruptMedia, match=r"^item 0 is cut short$"):
            await follower
        assert idle(flights)

    async def test_a_lease_that_is_over_is_given_to_nobody(self, flights: Flights, arena: Arena) -> None:
        prepared = made(arena)
        prepared.lease.release()
        leader = await lead(flights)
        (follower,) = await following(flights, "item 0")
        with pytest.raises(InternalError, match="is over"):
            with leader:
                leader.land(prepared)
        next_one = await follower
        assert isinstance(next_one, Lead)
        next_one.fail(InternalError("nothing"))
        assert idle(flights)


class TestHoldersOfSlots:
    """Who holds slots follows only who waits for none, and never waits in a circle."""

    async def test_nobody_is_followed_before_it_has_begun(self, flights: Flights, arena: Arena) -> None:
        assert await flights.follow(address(1), "item 0", FOREVER) is None
        leader = await lead(flights)
        assert await flights.follow(address(1), "item 0", FOREVER) is None
        leader.begin()
        follower = asyncio.create_task(flights.follow(address(1), "item 0", FOREVER))
        await asyncio.sleep(0)
        prepared = made(arena)
        leader.land(prepared)
        prepared.lease.release()
        found = await follower
        assert found is not None
        found.lease.release()
        assert idle(flights)

    async def test_they_go_on_by_themselves_when_their_leader_leaves_and_the_lead_goes_to_who_can_wait(
        self, flights: Flights
    ) -> None:
        leader = await lead(flights)
        leader.begin()
        holders = [asyncio.create_task(flights.follow(address(1), "item 0", FOREVER)) for _ in range(2)]
        (patient,) = await following(flights, "item 0")
        last = asyncio.create_task(flights.follow(address(1), "item 0", FOREVER))
        await asyncio.sleep(0)
        leader.fail(DeadlineExceeded("too late", stage="decode"))
        assert await asyncio.gather(*holders, last) == [None] * 3
        next_one = await patient
        assert isinstance(next_one, Lead)
        # It has not begun, so again none that holds slots waits for it.
        assert await flights.follow(address(1), "item 0", FOREVER) is None
        next_one.fail(InternalError("nothing"))
        assert idle(flights)

    async def test_they_share_the_bytes_problem(self, flights: Flights) -> None:
        leader = await lead(flights)
        leader.begin()
        follower = asyncio.create_task(flights.follow(address(1), "item 7", FOREVER))
        await asyncio.sleep(0)
        leader.fail(CorruptMedia("item 0 is cut short"))
        with pytest.raises(CorruptMedia, match="item 7 is cut short"):
            await follower

    async def test_when_they_leave_or_are_late_nothing_is_left(self, flights: Flights, arena: Arena) -> None:
        leader = await lead(flights)
        leader.begin()
        with pytest.raises(DeadlineExceeded):
            await flights.follow(address(1), "item 0", Deadline.after(0.01))
        gone, landed = (asyncio.create_task(flights.follow(address(1), "item 0", FOREVER)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        prepared = made(arena)
        leader.land(prepared)
        prepared.lease.release()
        landed.cancel()
        await asyncio.gather(gone, landed, return_exceptions=True)
        assert arena.statistics().leased == 0
        assert idle(flights)


class TestProblems:
    @pytest.mark.parametrize(
        "problem",
        [
            CorruptMedia("item 3 (mine.jpg) is cut short", quarantined_s=5),
            UnsupportedMedia("item 3 (mine.jpg) is no picture"),
            MediaTooLarge("item 3 (mine.jpg): too thin", limit="resized_bytes", allowed=1, found=2),
        ],
        ids=lambda problem: type(problem).__name__,
    )
    async def test_what_the_bytes_are_to_blame_for_is_told_to_all_by_their_own_names(
        self, flights: Flights, problem: SidecarError
    ) -> None:
        leader = await lead(flights, "item 3 (mine.jpg)")
        followers = await following(flights, "item 0", "item 1 (theirs.png)")
        leader.fail(problem)
        problem.facts["item"] = "3"  # what the leader's call writes on it later is the leader's
        results = await asyncio.gather(*followers, return_exceptions=True)
        for result, label in zip(results, ["item 0", "item 1 (theirs.png)"], strict=True):
            assert isinstance(result, type(problem))
            assert result.message == problem.message.replace("item 3 (mine.jpg)", label)
            assert result.facts == {key: value for key, value in problem.facts.items() if key != "item"}
        assert results[0] is not results[1]
        assert idle(flights)

    @pytest.mark.parametrize(
        "problem",
        [
            DeadlineExceeded("too late", stage="decode"),
            CallCancelled("gone"),
            Overloaded("full", retry_after_s=1.0),
            InternalError("a fault of the server"),
        ],
        ids=lambda problem: type(problem).__name__,
    )
    async def test_what_is_the_leader_s_own_makes_the_next_one_lead(
        self, flights: Flights, arena: Arena, problem: SidecarError
    ) -> None:
        leader = await lead(flights)
        first, second = await following(flights, "item 0", "item 0")
        leader.fail(problem)
        next_one = await first
        assert isinstance(next_one, Lead)
        prepared = made(arena)
        next_one.land(prepared)
        found = await second
        assert isinstance(found, Prepared)
        found.lease.release()
        prepared.lease.release()
        assert flights.statistics().handed_on_total == 1
        assert idle(flights)


class TestLeaders:
    @pytest.mark.parametrize("point", range(4))
    async def test_a_leader_cancelled_at_any_await_costs_its_followers_nothing(
        self, flights: Flights, arena: Arena, point: int
    ) -> None:
        """Each leader awaits three times; the first is cancelled at one of them, or as it begins."""
        works = 0

        async def call() -> bytes:
            nonlocal works
            found = await flights.join(address(1), "item 0", FOREVER)
            if isinstance(found, Lead):
                with found:
                    await asyncio.sleep(0)
                    found.begin()
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    works += 1
                    prepared = made(arena, fill=3)
                    found.land(prepared)
                    result = bytes_of(prepared)
                    prepared.lease.release()
                    return result
            seen = bytes_of(found)
            found.lease.release()
            return seen

        tasks = [asyncio.create_task(call()) for _ in range(4)]
        for _ in range(point):
            await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError) or point == 3
        assert set(answers[1:]) == {bytes([3]) * 4096}
        assert works == 1
        assert idle(flights)

    async def test_a_follower_is_late_by_its_own_deadline_alone(self, flights: Flights) -> None:
        with await lead(flights):
            with pytest.raises(DeadlineExceeded, match="same content"):
                await flights.join(address(1), "item 0", Deadline.after(0.01))
            assert flights.statistics().following == 0
        assert idle(flights)

    async def test_when_all_leave_nothing_is_left(self, flights: Flights) -> None:
        leader = await lead(flights)
        followers = await following(flights, *["item 0"] * 5)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        with leader:
            pass
        assert idle(flights)
