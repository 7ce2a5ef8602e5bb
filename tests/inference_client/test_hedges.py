"""Hedges: what is decided, step by step, and what two servers see of it, from either client."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import (
    AsyncClient,
    CallCancelled,
    CorruptMedia,
    DeadlineExceeded,
    Hedges,
    InternalError,
    Overloaded,
    Retries,
    ServerUnavailable,
    SidecarError,
    Unaffordable,
    UnknownModel,
)
from inference_client.connection import Line
from inference_client.hedges import Answered, Ended, Failed, Hedger, Lines, Pause, Send, Step, Steps, Wait
from tests.inference_client.scripted_server import HANG, Held, Refusal, ScriptedServer, serving

Code = grpc.StatusCode
OK = preprocessor_pb2.PreprocessResponse(items=[media_pb2.ItemResult()])
# Long enough to see that nothing is sent, short enough to wait for.
BRIEF_S = 0.2
QUICK = Retries(first_backoff_s=0.01, longest_backoff_s=0.02)
ONCE = Retries(attempts=1)


def told(request_id: str) -> preprocessor_pb2.PreprocessResponse:
    return preprocessor_pb2.PreprocessResponse(items=[media_pb2.ItemResult()], request_id=request_id)


def overloaded(**more: Any) -> Refusal:
    return Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED", facts={"retryable": "true"}, **more)


@pytest.fixture
async def other() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        scripted.will("Preprocess", told("other"))
        yield scripted


@pytest.fixture
def hedging(connect: Any, server: ScriptedServer, other: ScriptedServer) -> Any:
    """Makes callers of `server` that hedge at `other`, by default soon and always."""

    def make(
        *, after_s: float | None = 0.01, budget: float = 1, retries: Retries = QUICK, **options: Any
    ) -> Any:
        hedges = Hedges(after_s=after_s, budget=budget, addresses=[other.address])
        return connect(server.address, hedges=hedges, retries=retries, **options)

    return make


class TestFirstGoodAnswer:
    async def test_a_call_that_hangs_is_answered_by_the_other_and_given_up(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        assert (await hedging().preprocess("m", b"a")).request_id == "other"
        await server.left.wait()
        assert (server.attempts("Preprocess"), other.attempts("Preprocess")) == (1, 1)

    async def test_a_call_that_is_answered_in_time_is_sent_once(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", told("own"))
        assert (await hedging(after_s=20).preprocess("m", b"a")).request_id == "own"
        assert other.seen == {}

    async def test_a_late_answer_of_the_first_still_wins_and_the_second_is_given_up(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", Held(other.hanging, told("own")))
        other.will("Preprocess", HANG)
        assert (await hedging().preprocess("m", b"a")).request_id == "own"
        await other.left.wait()

    async def test_both_attempts_are_the_same_request_of_the_same_tenant(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        await hedging(tenant="agents").preprocess("m", b"a", priority="batch", request_id="mine")
        assert server.seen["Preprocess"] == other.seen["Preprocess"]
        for each in (server, other):
            assert each.metadata["Preprocess"][0]["x-tenant-id"] == "agents"

    async def test_the_addresses_take_turns(
        self, connect: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        async with serving() as third:
            third.will("Preprocess", told("third"))
            hedges = Hedges(after_s=0.01, budget=1, addresses=[other.address, third.address])
            caller = connect(server.address, hedges=hedges)
            got = [(await caller.preprocess("m", b"a")).request_id for _ in range(3)]
        assert got == ["other", "third", "other"]

    async def test_without_addresses_the_own_one_is_asked_again(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG, told("own"))
        caller = connect(server.address, hedges=Hedges(after_s=0.01, budget=1))
        assert (await caller.preprocess("m", b"a")).request_id == "own"
        await server.left.wait()


class TestWhatIsHedged:
    @pytest.mark.parametrize(
        ("rpc", "verb", "args"),
        [
            ("Estimate", "estimate", ("m",)),
            ("GetModel", "model", ("m",)),
            ("GetModel", "placeholder_tokens", ("m", [(1, 1)])),
            ("ListModels", "models", ()),
        ],
    )
    async def test_what_only_asks_is(self, connect: Any, rpc: str, verb: str, args: tuple[Any, ...]) -> None:
        async with serving() as server, serving() as other:
            server.will(rpc, HANG)
            other.will(rpc, getattr(preprocessor_pb2, f"{rpc}Response")())
            hedges = Hedges(after_s=0.01, budget=1, addresses=[other.address])
            await connect(server.address, hedges=hedges).call(verb, *args)
            assert other.attempts(rpc) == 1

    async def test_an_inference_with_an_idempotency_key_is(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Infer", HANG)
        other.will("Infer", preprocessor_pb2.InferResponse(items=[media_pb2.ItemResult()]))
        await hedging().infer("m", b"a", idempotency_key="turn-7")
        assert other.request("Infer").idempotency_key == "turn-7"

    async def test_an_inference_without_one_is_not(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Infer", HANG)
        with pytest.raises(DeadlineExceeded):
            await hedging().infer("m", b"a", timeout=BRIEF_S)
        assert other.seen == {}

    async def test_an_upload_is_not(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("PreprocessUpload", HANG)
        with pytest.raises(DeadlineExceeded):
            await hedging(upload_threshold=0).preprocess("m", b"a", timeout=BRIEF_S)
        assert other.seen == {}

    async def test_a_stream_is_not(self, hedging: Any, server: ScriptedServer, other: ScriptedServer) -> None:
        server.will("InferStream", [HANG])
        with pytest.raises(DeadlineExceeded):
            await hedging().stream("m", b"a", timeout=BRIEF_S)
        assert other.seen == {}


class TestFailures:
    async def test_of_two_failures_the_first_attempts_is_raised_with_a_note_of_the_others(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", Held(other.asked, overloaded(pushback_ms=10, retry_after_s=0.01)))
        other.will("Preprocess", Refusal(Code.NOT_FOUND, "UNKNOWN_MODEL", message="only clip is served"))
        with pytest.raises(Overloaded) as caught:
            await hedging(retries=ONCE).preprocess("m", b"a")
        (note,) = caught.value.__notes__
        assert f"at {other.address}" in note
        assert "UNKNOWN_MODEL: only clip is served" in note

    async def test_a_failure_that_no_other_attempt_can_mend_ends_the_call_at_once(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", Held(other.hanging, Refusal(Code.INVALID_ARGUMENT, "CORRUPT_MEDIA")))
        other.will("Preprocess", HANG)
        with pytest.raises(CorruptMedia):
            await hedging().preprocess("m", b"a")
        await other.left.wait()

    async def test_a_refusal_of_the_first_leaves_the_second_its_chance(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        answered = asyncio.Event()
        server.will("Preprocess", Held(other.asked, overloaded(pushback_ms=60_000)))
        other.will("Preprocess", Held(answered, told("other")))
        task = asyncio.create_task(hedging().preprocess("m", b"a"))
        await other.asked.wait()
        answered.set()
        assert (await task).request_id == "other"

    async def test_the_deadline_ends_both(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        other.will("Preprocess", HANG)
        with pytest.raises(DeadlineExceeded):
            await hedging().preprocess("m", b"a", timeout=BRIEF_S)
        await server.left.wait()
        await other.left.wait()

    async def test_closing_the_client_ends_both_as_cancelled(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        other.will("Preprocess", HANG)
        caller = hedging()
        task = asyncio.create_task(caller.preprocess("m", b"a"))
        await other.hanging.wait()
        await caller.close()
        with pytest.raises(CallCancelled):
            await task
        await server.left.wait()
        await other.left.wait()

    async def test_closing_the_client_ends_the_wait_for_a_push_back(
        self, hedging: Any, server: ScriptedServer
    ) -> None:
        server.will("Preprocess", overloaded(pushback_ms=20_000))
        caller = hedging()
        task = asyncio.create_task(caller.preprocess("m", b"a"))
        await server.asked.wait()
        await caller.close()
        with pytest.raises(CallCancelled):
            await task

    async def test_cancelling_the_task_that_awaits_cancels_both(
        self, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        other.will("Preprocess", HANG)
        hedges = Hedges(after_s=0.01, budget=1, addresses=[other.address])
        async with AsyncClient(server.address, hedges=hedges) as client:
            task = asyncio.create_task(client.preprocess("m", b"a"))
            await other.hanging.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.left.wait()
            await other.left.wait()


class TestPushBack:
    async def test_a_call_that_was_pushed_back_waits_and_is_tried_there_again(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", overloaded(pushback_ms=600), told("own"))
        begun = time.monotonic()
        assert (await hedging(after_s=0.4).preprocess("m", b"a")).request_id == "own"
        assert time.monotonic() - begun >= 0.6
        assert (server.attempts("Preprocess"), other.attempts("Preprocess")) == (2, 0)

    @pytest.mark.parametrize(
        ("refusal", "kind"),
        [
            (overloaded(pushback_ms=-1), Overloaded),
            (Refusal(Code.RESOURCE_EXHAUSTED, "UNAFFORDABLE", facts={"retryable": "false"}), Unaffordable),
        ],
        ids=["negative", "for good"],
    )
    async def test_a_refusal_for_good_is_raised_at_once(
        self,
        hedging: Any,
        server: ScriptedServer,
        other: ScriptedServer,
        refusal: Refusal,
        kind: type[SidecarError],
    ) -> None:
        server.will("Preprocess", refusal)
        with pytest.raises(kind):
            await hedging(after_s=20).preprocess("m", b"a")
        assert (server.attempts("Preprocess"), other.attempts("Preprocess")) == (1, 0)

    async def test_a_push_back_past_the_deadline_is_raised_rather_than_waited_for(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", overloaded(pushback_ms=60_000, retry_after_s=60))
        with pytest.raises(Overloaded) as caught:
            await hedging(after_s=5).preprocess("m", b"a", timeout=10)
        assert caught.value.retry_after_s == 60
        assert (server.attempts("Preprocess"), other.attempts("Preprocess")) == (1, 0)

    async def test_while_a_push_back_is_in_force_no_other_call_is_hedged(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", overloaded(pushback_ms=60_000), HANG)
        caller = hedging(after_s=0.4)
        with pytest.raises(Overloaded):
            await caller.preprocess("m", b"a", timeout=10)
        with pytest.raises(DeadlineExceeded):
            await caller.preprocess("m", b"a", timeout=0.6)
        assert other.seen == {}

    async def test_a_push_back_to_a_call_that_is_never_hedged_holds_for_the_others(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Infer", overloaded(pushback_ms=60_000))
        server.will("InferStream", [overloaded(pushback_ms=60_000)])
        server.will("Preprocess", HANG)
        for verb in ("infer", "stream"):
            caller = hedging(retries=ONCE)
            with pytest.raises(Overloaded):
                await getattr(caller, verb)("m", b"a")
            with pytest.raises(DeadlineExceeded):
                await caller.preprocess("m", b"a", timeout=BRIEF_S)
        assert other.seen == {}

    @pytest.mark.parametrize("attempts", [1, 2, 4])
    async def test_a_call_that_could_be_hedged_is_tried_as_often_as_any_other(
        self, hedging: Any, server: ScriptedServer, attempts: int
    ) -> None:
        server.will("Preprocess", overloaded())
        retries = Retries(attempts=attempts, first_backoff_s=0.01, longest_backoff_s=0.02)
        with pytest.raises(Overloaded):
            await hedging(after_s=20, retries=retries).preprocess("m", b"a")
        assert server.attempts("Preprocess") == attempts

    async def test_a_hedge_that_hangs_does_not_keep_the_rest_of_the_retries_waiting(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", Held(other.hanging, overloaded(pushback_ms=10)), told("own"))
        other.will("Preprocess", HANG)
        assert (await hedging().preprocess("m", b"a")).request_id == "own"
        await other.left.wait()

    async def test_a_failed_pair_is_followed_by_the_rest_of_the_retries(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", Held(other.asked, overloaded(pushback_ms=10)), told("own"))
        other.will("Preprocess", Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN"))
        assert (await hedging().preprocess("m", b"a")).request_id == "own"
        assert (server.attempts("Preprocess"), other.attempts("Preprocess")) == (2, 1)


class TestLimits:
    async def test_hedges_are_earned_by_calls(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", HANG)
        caller = hedging(budget=0.5)
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await caller.preprocess("m", b"a", timeout=BRIEF_S)
            assert (await caller.preprocess("m", b"a")).request_id == "other"
        assert (server.attempts("Preprocess"), other.attempts("Preprocess")) == (4, 2)

    async def test_of_two_calls_at_once_the_budgets_last_hedge_goes_to_one(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", OK, OK, HANG)
        caller = hedging(budget=0.4, after_s=0.1)
        for _ in range(2):
            await caller.preprocess("m", b"a")
        pair = [caller.preprocess("m", b"a", timeout=0.6) for _ in range(2)]
        ends = await asyncio.gather(*pair, return_exceptions=True)
        assert {type(end).__name__ for end in ends} == {"Prepared", "DeadlineExceeded"}
        assert other.attempts("Preprocess") == 1

    async def test_nothing_is_sent_twice_while_half_of_the_retries_tokens_are_gone(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", *[Refusal(Code.UNAVAILABLE)] * 5, HANG)
        caller = hedging(retries=ONCE, after_s=0.4)
        for _ in range(5):
            with pytest.raises(ServerUnavailable):
                await caller.preprocess("m", b"a")
        with pytest.raises(DeadlineExceeded):
            await caller.preprocess("m", b"a", timeout=0.6)
        assert other.seen == {}

    async def test_a_percentile_is_of_twenty_answers_at_least(
        self, hedging: Any, server: ScriptedServer, other: ScriptedServer
    ) -> None:
        server.will("Preprocess", *[OK] * 19, HANG, OK, HANG)
        caller = hedging(after_s=None)
        for _ in range(19):
            await caller.preprocess("m", b"a")
        with pytest.raises(DeadlineExceeded):
            await caller.preprocess("m", b"a", timeout=BRIEF_S)
        await caller.preprocess("m", b"a")
        assert other.seen == {}
        assert (await caller.preprocess("m", b"a")).request_id == "other"

    async def test_there_are_none_by_default(self, connect: Any, server: ScriptedServer) -> None:
        server.will("Preprocess", HANG)
        with pytest.raises(DeadlineExceeded):
            await connect(server.address).preprocess("m", b"a", timeout=BRIEF_S)
        assert server.attempts("Preprocess") == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"after": "p42"},
            {"after_s": -1.0},
            {"after_s": math.inf},
            {"budget": 0},
            {"budget": 2},
            {"addresses": "a:1"},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_hedges_that_make_no_sense_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="found"):
            Hedges(**wrong)


FULL = Overloaded("full", status="RESOURCE_EXHAUSTED")
BROKEN = InternalError("broken", status="INTERNAL")
UNTIL = 1e9


def hedger(**options: Any) -> Hedger:
    hedges = Hedges(**{"after_s": 1.0, "budget": 1, "addresses": ["b"], **options})
    return Hedger(hedges, Lines.of("a", Retries(), hedges))


def begin(hedger: Hedger, now: float, model: str = "m") -> tuple[Steps[Any], Step]:
    steps = hedger.steps("Preprocess", model, now, UNTIL, 0.5)
    return steps, steps.send(None)


def finish(steps: Steps[Any], *told: Ended | None) -> list[Step]:
    """Tells the steps how attempts ended, and gives what is to be done next each time, up to the end."""
    done: list[Step] = []
    with suppress(StopIteration):
        for each in told:
            done.append(steps.send(each))  # noqa: PERF401 - what was done before the end is kept
    return done


def is_hedged(hedger: Hedger, now: float, model: str = "m") -> bool:
    """Whether a call that nothing is heard of for long is sent a second time; it is then answered."""
    steps, _ = begin(hedger, now, model)
    wait = steps.send(None)
    assert isinstance(wait, Wait)
    sent = wait.until < UNTIL and isinstance(steps.send(None), Send)
    if sent:
        finish(steps, None)
    finish(steps, Answered(0, now, "reply"))
    return sent


class TestDecisions:
    def test_a_failed_hedge_never_ends_the_call(self) -> None:
        steps, _ = begin(hedger(), 0)
        done = finish(steps, None, None, None, Failed(1, 1.1, UnknownModel("none")), Answered(0, 2, "reply"))
        assert [type(each) for each in done] == [Wait, Send, Wait, Wait]

    def test_a_hedge_may_answer_beside_the_rest_of_the_retries(self) -> None:
        steps, _ = begin(hedger(), 0)
        full, good = Failed(0, 1.5, FULL, 2.0), Answered(1, 4, "reply")
        done = finish(steps, None, None, None, full, None, None, None, good)
        assert [type(each) for each in done] == [Wait, Send, Wait, Wait, Pause, Send, Wait]
        assert done[3] == Wait(3.5)

    def test_a_hedge_is_the_last_hope_when_the_retries_are_spent(self) -> None:
        steps, _ = begin(hedger(), 0)
        told = [Failed(0, 1.5, FULL, 2.0), None, None, None, Failed(2, 4, FULL), Answered(1, 5, "reply")]
        done = finish(steps, None, None, None, *told)
        assert [type(each) for each in done] == [Wait, Send, Wait, Wait, Pause, Send, Wait, Wait]

    def test_a_hedge_that_fails_takes_a_token_whatever_its_status(self) -> None:
        shared = hedger()
        for _ in range(6):
            steps, _ = begin(shared, 0)
            failed = Failed(1, 1.1, UnknownModel("none"))
            finish(steps, None, None, None, failed, Answered(0, 2, "reply"))
        assert not is_hedged(shared, 3)

    def test_a_failure_that_retries_would_not_count_takes_none(self) -> None:
        shared = hedger()
        for _ in range(20):
            steps, _ = begin(shared, 0)
            with pytest.raises(InternalError):
                finish(steps, None, Failed(0, 0.1, BROKEN))
        assert is_hedged(shared, 3)

    @pytest.mark.parametrize(("failures", "hedged"), [(4, True), (5, False)])
    def test_a_refusal_takes_one_of_ten_tokens_and_half_of_them_must_be_left(
        self, failures: int, *, hedged: bool
    ) -> None:
        shared = hedger()
        for _ in range(failures):
            steps, _ = begin(shared, 0)
            with pytest.raises(Overloaded):
                finish(steps, None, Failed(0, 0.1, FULL, math.inf))
        assert is_hedged(shared, 3) == hedged

    def test_tokens_come_back_by_a_tenth_an_answer(self) -> None:
        shared = hedger()
        for _ in range(5):
            steps, _ = begin(shared, 0)
            with pytest.raises(Overloaded):
                finish(steps, None, Failed(0, 0.1, FULL, math.inf))
        assert [is_hedged(shared, 3) for _ in range(2)] == [False, True]

    def test_hedges_begin_again_when_the_push_back_is_over(self) -> None:
        shared = hedger()
        steps, _ = begin(shared, 0)
        wait, pause = finish(steps, None, Failed(0, 0.5, FULL, 10.0))
        assert (wait, pause) == (Wait(1.0), Pause(10.5))
        assert [is_hedged(shared, now) for now in (9.0, 10.4, 10.5)] == [False, False, True]

    def test_a_push_back_that_comes_to_a_neighbour_holds_for_a_call_already_under_way(self) -> None:
        shared = hedger()
        steps, _ = begin(shared, 0)
        assert finish(steps, None) == [Wait(1.0)]
        neighbour, _ = begin(shared, 0)
        finish(neighbour, None, Failed(0, 0.5, FULL, 10.0))
        assert finish(steps, None) == [Wait(math.inf)]

    def test_never_is_about_one_call(self) -> None:
        shared = hedger()
        steps, _ = begin(shared, 0)
        with pytest.raises(Overloaded):
            finish(steps, None, Failed(0, 0.5, FULL, math.inf))
        assert is_hedged(shared, 1)

    def test_the_rest_of_the_retries_is_grpcs_after_one_backoff_of_its_own_kind(self) -> None:
        steps, first = begin(hedger(), 0)
        wait, pause, rest = finish(steps, None, Failed(0, 0.5, FULL), None)
        assert (first, wait) == (
            Send(Line("a", ONCE)),
            Wait(1.0),
        )
        assert pause == Pause(0.5 + 0.1)
        assert isinstance(rest, Send)
        assert (rest.line.address, rest.line.retries.attempts) == ("a", 3)

    def test_a_call_whose_deadline_comes_before_the_hedge_goes_grpcs_own_way(self) -> None:
        shared = hedger(after_s=5.0)
        first = shared.steps("Preprocess", "m", 0, 4, 0.5).send(None)
        assert isinstance(first, Send)
        assert first.line.retries.attempts == 4

    def test_the_percentile_is_of_the_calls_own_kind(self) -> None:
        shared = hedger(after_s=None, after="p95")
        for took in range(1, 101):
            steps, _ = begin(shared, 0)
            finish(steps, None, Answered(0, took / 100, "reply"))
        steps, _ = begin(shared, 0)
        (wait,) = finish(steps, None)
        assert isinstance(wait, Wait)
        assert wait.until == pytest.approx(0.95, abs=0.011)
        assert not is_hedged(shared, 0, model="another")

    @given(
        budget=st.sampled_from([0.01, 0.02, 0.1, 1 / 3, 1.0]),
        hangs=st.lists(st.booleans(), max_size=300),
    )
    def test_hedges_never_pass_their_share_of_the_calls(self, budget: float, hangs: list[bool]) -> None:
        shared = hedger(budget=budget)
        sent = 0
        for calls, hung in enumerate(hangs, 1):
            if hung:
                sent += is_hedged(shared, float(calls))
            else:
                steps, _ = begin(shared, float(calls))
                finish(steps, None, Answered(0, calls + 0.1, "reply"))
            assert sent <= budget * calls + 1e-9

    def test_fifty_calls_at_two_percent_are_one_hedge(self) -> None:
        shared = hedger(budget=0.02)
        assert [is_hedged(shared, float(now)) for now in range(100)].count(True) == 2
        assert not is_hedged(shared, 100.0)

    def test_a_long_good_time_saves_up_ten_hedges_and_no_more(self) -> None:
        shared = hedger(budget=0.1)
        for _ in range(1000):
            steps, _ = begin(shared, 0)
            finish(steps, None, Answered(0, 0.1, "reply"))
        assert [is_hedged(shared, 1) for _ in range(20)].count(True) == 11
