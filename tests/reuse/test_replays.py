"""A key gives its first reply again, for a while, to the same content and the same tenant only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded, InvalidRequest
from sidecar.reuse import replays as module
from sidecar.reuse.replays import CallKey, Replays, ReplaysConfig, Turn
from tests.reuse.making import FOREVER

KEY = CallKey("tenant", "Infer", "key")
SAME = b"1" * 32
OTHER = b"2" * 32


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replays(clock: Clock) -> Replays:
    return Replays(ReplaysConfig(), clock)


async def turn(replays: Replays, key: CallKey = KEY, digest: bytes = SAME) -> Turn:
    begun = await replays.begin(key, digest, FOREVER)
    assert isinstance(begun, Turn)
    return begun


async def replied(replays: Replays, key: CallKey = KEY, reply: bytes = b"reply") -> None:
    with await turn(replays, key) as begun:
        begun.reply(reply)


async def is_kept(replays: Replays, key: CallKey = KEY) -> bool:
    begun = await replays.begin(key, SAME, FOREVER)
    if isinstance(begun, bytes):
        return True
    with begun:
        return False


def key_of(number: int) -> CallKey:
    return CallKey("", "Infer", f"{number:04}")


class TestReplaying:
    async def test_a_retry_is_given_the_first_reply(self, replays: Replays) -> None:
        await replied(replays, reply=b"the first")
        assert await replays.begin(KEY, SAME, FOREVER) == b"the first"
        assert await replays.begin(KEY, SAME, FOREVER) == b"the first"
        now = replays.statistics()
        assert (now.kept_total, now.replayed_total, now.entries) == (1, 2, 1)

    @pytest.mark.parametrize(
        "other",
        [KEY._replace(tenant="t"), KEY._replace(method="Preprocess"), KEY._replace(idempotency_key="k")],
    )
    async def test_another_tenant_method_or_key_is_another_call(
        self, replays: Replays, other: CallKey
    ) -> None:
        await replied(replays)
        assert not await is_kept(replays, other)

    async def test_the_same_key_with_other_content_is_refused(self, replays: Replays) -> None:
        await replied(replays)
        with pytest.raises(InvalidRequest, match="'key' came with another request") as refused:
            await replays.begin(KEY, OTHER, FOREVER)
        assert refused.value.facts["field"] == "idempotency_key"
        assert await is_kept(replays)
        assert replays.statistics().mismatched_total == 1

    @pytest.mark.parametrize(
        ("letter", "count", "fits"), [("a", 256, True), ("a", 257, False), ("é", 129, False)]
    )
    async def test_a_key_has_256_bytes_at_most(
        self, replays: Replays, letter: str, count: int, fits: bool
    ) -> None:
        key = KEY._replace(idempotency_key=letter * count)
        if fits:
            assert not await is_kept(replays, key)
            return
        with pytest.raises(InvalidRequest, match=r"25[78] bytes and may have 256") as refused:
            await replays.begin(key, SAME, FOREVER)
        assert refused.value.facts["field"] == "idempotency_key"

    async def test_a_failed_call_is_not_kept(self, replays: Replays) -> None:
        with pytest.raises(ZeroDivisionError):
            with await turn(replays):
                _ = 1 / 0
        assert not await is_kept(replays)
        assert replays.statistics().entries == 0


class TestAtTheSameTime:
    async def test_the_second_is_given_the_first_s_reply(self, replays: Replays) -> None:
        with await turn(replays) as first:
            second = asyncio.create_task(replays.begin(KEY, SAME, FOREVER))
            await asyncio.sleep(0)
            assert not second.done()
            first.reply(b"reply")
        assert await second == b"reply"
        assert replays.statistics().replayed_total == 1

    async def test_the_second_does_it_if_the_first_fails(self, replays: Replays) -> None:
        with await turn(replays):
            second = asyncio.create_task(replays.begin(KEY, SAME, FOREVER))
            await asyncio.sleep(0)
        begun = await second
        assert isinstance(begun, Turn)
        with begun:
            begun.reply(b"of the second")
        assert await replays.begin(KEY, SAME, FOREVER) == b"of the second"

    @pytest.mark.parametrize("point", range(3))
    async def test_the_second_does_it_if_the_first_is_cancelled_at_any_await(
        self, replays: Replays, point: int
    ) -> None:
        done = 0

        async def call() -> bytes:
            nonlocal done
            begun = await replays.begin(KEY, SAME, FOREVER)
            if isinstance(begun, bytes):
                return begun
            with begun:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                done += 1
                begun.reply(b"reply")
                return b"reply"

        tasks = [asyncio.create_task(call()) for _ in range(3)]
        for _ in range(point):
            await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert (answers[1:], done) == ([b"reply", b"reply"], 1)

    async def test_other_content_is_refused_while_the_first_is_under_way_and_after_it_was_handed_on(
        self, replays: Replays
    ) -> None:
        with await turn(replays):
            with pytest.raises(InvalidRequest):
                await replays.begin(KEY, OTHER, FOREVER)
            second = asyncio.create_task(replays.begin(KEY, SAME, FOREVER))
            await asyncio.sleep(0)
        with pytest.raises(InvalidRequest):
            await replays.begin(KEY, OTHER, FOREVER)
        begun = await second
        assert isinstance(begun, Turn)
        with begun:
            pass
        with await turn(replays, digest=OTHER):
            pass

    async def test_the_second_waits_within_its_own_deadline(self, replays: Replays) -> None:
        with await turn(replays) as first:
            with pytest.raises(DeadlineExceeded, match="idempotency_key"):
                await replays.begin(KEY, SAME, Deadline.after(0.01))
            first.reply(b"reply")
        assert await is_kept(replays)

    async def test_a_reply_too_large_to_keep_is_still_given_to_who_waits(self, clock: Clock) -> None:
        replays = Replays(ReplaysConfig(bytes=0), clock)
        with await turn(replays) as first:
            second = asyncio.create_task(replays.begin(KEY, SAME, FOREVER))
            await asyncio.sleep(0)
            first.reply(b"reply")
        assert await second == b"reply"
        assert not await is_kept(replays)


class TestBounds:
    async def test_a_reply_is_kept_for_its_window(self, replays: Replays, clock: Clock) -> None:
        await replied(replays)
        clock.now += 299.9
        assert await is_kept(replays)
        clock.now += 0.1
        assert not await is_kept(replays)
        assert (replays.statistics().entries, replays.statistics().kept_bytes) == (0, 0)

    async def test_after_its_window_a_key_is_free_for_other_content(
        self, replays: Replays, clock: Clock
    ) -> None:
        await replied(replays)
        clock.now += 300
        with await turn(replays, digest=OTHER) as begun:
            begun.reply(b"of the other")
        assert await replays.begin(KEY, OTHER, FOREVER) == b"of the other"

    async def test_what_is_past_its_time_is_not_told_even_before_it_is_swept(
        self, replays: Replays, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await replied(replays)
        clock.now += 300
        monkeypatch.setattr(module, "_AT_ONCE", 0)
        assert not await is_kept(replays)
        before = replays.statistics().kept_bytes
        await replied(replays, reply=b"again")
        assert (replays.statistics().entries, replays.statistics().kept_bytes) == (1, before)
        assert await replays.begin(KEY, SAME, FOREVER) == b"again"

    async def test_sweeping_takes_a_bounded_number_at_a_time(
        self, replays: Replays, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(10):
            await replied(replays, key_of(number))
        clock.now += 300
        monkeypatch.setattr(module, "_AT_ONCE", 4)
        left = []
        for _ in range(4):
            replays.sweep()
            left.append(replays.statistics().entries)
        assert left == [6, 2, 0, 0]

    async def test_the_oldest_goes_first_where_room_is_wanted(self, clock: Clock) -> None:
        replays = Replays(ReplaysConfig(bytes=10_000), clock)
        for number in range(10):
            await replied(replays, key_of(number), bytes(1000))
        now = replays.statistics()
        assert now.kept_bytes <= 10_000
        assert now.dropped_total == 10 - now.entries > 0
        assert [await is_kept(replays, key_of(number)) for number in range(10)] == [
            number >= 10 - now.entries for number in range(10)
        ]

    async def test_more_than_a_quarter_of_the_room_is_not_kept(self, clock: Clock) -> None:
        replays = Replays(ReplaysConfig(bytes=10_000), clock)
        await replied(replays, key_of(1), bytes(10))
        await replied(replays, key_of(2), bytes(2500))
        assert [await is_kept(replays, key_of(number)) for number in (1, 2)] == [True, False]

    async def test_nothing_is_left_after_its_end(self, replays: Replays) -> None:
        await replied(replays)
        replays.close()
        assert (replays.statistics().entries, replays.statistics().kept_bytes) == (0, 0)
        assert not await is_kept(replays)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reply", "fail", "later", "close"]), st.integers(0, 12), st.integers(0, 700)
        ),
        max_size=50,
    )
)
@settings(deadline=None)
def test_whatever_comes_the_bytes_are_bounded_and_no_reply_is_anothers(
    actions: list[tuple[str, int, int]],
) -> None:
    async def play() -> None:
        clock = Clock()
        replays = Replays(ReplaysConfig(window_s=100, bytes=4000), clock)
        told: dict[int, tuple[bytes, float]] = {}
        for action, number, size in actions:
            if action == "later":
                clock.now += size / 10
            elif action == "close":
                replays.close()
            else:
                begun = await replays.begin(key_of(number), SAME, FOREVER)
                if isinstance(begun, bytes):
                    assert begun == told[number][0]
                    assert clock.now < told[number][1] + 100
                    continue
                with begun:
                    if action == "reply":
                        told[number] = bytes([number]) * size, clock.now
                        begun.reply(told[number][0])
            now = replays.statistics()
            assert now.kept_bytes == sum(kept.nbytes for kept in replays._entries.values()) <= 4000

    asyncio.run(play())
