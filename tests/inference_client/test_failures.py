"""What callers see of failures: the server's own words, gRPC's, and what gRPC itself retries."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import grpc
import pytest
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import (
    CallerError,
    CapacityError,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidRequest,
    MediaTooLarge,
    Overloaded,
    Retries,
    ServerUnavailable,
    SidecarError,
    Unaffordable,
    UpstreamUnavailable,
)
from inference_client.errors import BY_REASON
from inference_client.failures import from_problem, from_rpc, pushback_s
from tests.inference_client.scripted_server import HANG, Refusal, ScriptedServer, serving

Code = grpc.StatusCode
OK = preprocessor_pb2.InferResponse(items=[media_pb2.ItemResult()])
# Short waits, so that the tests are about which attempts are made and not about the waits.
QUICK = Retries(first_backoff_s=0.01, longest_backoff_s=0.02)


class TestReading:
    async def test_a_refusal_is_raised_by_its_reason_with_facts_and_fields(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        refusal = Refusal(
            Code.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            message="media[0] is missing",
            facts={"field": "media[0]", "retryable": "false", "item": "0"},
            violations=(("media[0]", "missing"),),
        )
        server.will("Infer", refusal)
        with pytest.raises(InvalidRequest, match=r"media\[0\] is missing") as caught:
            await caller.infer("m", b"a")
        assert caught.value.reason == "INVALID_REQUEST"
        assert caught.value.facts == {"field": "media[0]", "item": "0"}
        assert caught.value.item == 0
        assert (FieldViolation("media[0]", "missing"),) == caught.value.violations
        assert caught.value.status == "INVALID_ARGUMENT"
        assert not caught.value.retryable
        assert caught.value.retry_after_s is None

    @pytest.mark.parametrize("reason", sorted(BY_REASON))
    def test_every_reason_becomes_its_own_error(self, reason: str) -> None:
        trailing = Refusal(Code.INTERNAL, reason).trailing()
        error = from_rpc(Code.INTERNAL, "x", trailing, address="here")
        assert (BY_REASON[reason], reason) == (type(error), error.reason)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (Code.INVALID_ARGUMENT, CallerError),
            (Code.RESOURCE_EXHAUSTED, CapacityError),
            (Code.UNAVAILABLE, CapacityError),
            (Code.DEADLINE_EXCEEDED, DeadlineExceeded),
            (Code.DATA_LOSS, InternalError),
        ],
    )
    def test_a_newer_servers_reason_becomes_the_nearest_branch(
        self, code: grpc.StatusCode, kind: type[SidecarError]
    ) -> None:
        refusal = Refusal(code, "NEW_THING", retry_after_s=0.25)
        error = from_rpc(code, "x", refusal.trailing(), address="here")
        assert (kind, "NEW_THING", 0.25) == (type(error), error.reason, error.retry_after_s)

    @pytest.mark.parametrize("reason", ["NEW_THING", "CORRUPT_MEDIA", "OVERLOADED"])
    @pytest.mark.parametrize(("told", "retryable"), [("true", True), ("false", False)])
    def test_whether_a_retry_can_help_is_what_the_server_says(
        self, reason: str, told: str, retryable: bool
    ) -> None:
        refusal = Refusal(Code.INVALID_ARGUMENT, reason, facts={"retryable": told, "limit": "x"})
        error = from_rpc(refusal.code, "x", refusal.trailing(), address="here")
        assert (retryable, {"limit": "x"}) == (error.retryable, error.facts)

    @pytest.mark.parametrize("told", ["", "-1", "first", "²"])
    def test_an_item_that_is_no_index_is_only_a_fact(self, told: str) -> None:
        refusal = Refusal(Code.INVALID_ARGUMENT, "CORRUPT_MEDIA", facts={"item": told})
        error = from_rpc(refusal.code, "x", refusal.trailing(), address="here")
        assert (None, {"item": told}) == (error.item, error.facts)

    @pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
    def test_every_bare_status_becomes_some_error_that_names_it(self, code: grpc.StatusCode) -> None:
        error = from_rpc(code, None, None, address="here")
        assert code.name == error.status
        assert error.message

    @pytest.mark.parametrize(
        ("told", "seconds"),
        [("1.5", 1.5), ("0", 0.0), ("", None), ("soon", None), ("-1", None), ("nan", None)],
    )
    def test_an_items_problem_tells_when_to_come_back_if_it_is_a_time(
        self, told: str, seconds: float | None
    ) -> None:
        problem = media_pb2.Problem(code=8, reason="OVERLOADED", metadata={"retry_after_s": told})
        assert from_problem(problem).retry_after_s == seconds

    @pytest.mark.parametrize(
        ("told", "seconds"),
        [("250", 0.25), ("0", 0.0), ("-1", math.inf), ("", math.inf), ("1.5", math.inf), ("²", math.inf)],
    )
    def test_a_push_back_is_milliseconds_and_anything_else_is_never(self, told: str, seconds: float) -> None:
        assert pushback_s([("other", "7"), ("grpc-retry-pushback-ms", told)]) == seconds

    @pytest.mark.parametrize("trailing", [None, (), (("other", "7"),)])
    def test_no_push_back_is_none(self, trailing: Any) -> None:
        assert pushback_s(trailing) is None

    def test_details_that_a_proxy_wrote_are_not_ours(self) -> None:
        trailing = Refusal(Code.UNAVAILABLE, "OVERLOADED", domain="mesh.example").trailing()
        assert isinstance(from_rpc(Code.UNAVAILABLE, "x", trailing, address="here"), ServerUnavailable)

    def test_details_that_cannot_be_read_count_as_absent(self) -> None:
        trailing = (("grpc-status-details-bin", b"\xff\xff"),)
        error = from_rpc(Code.INTERNAL, "broken", trailing, address="here")
        assert error.message == "INTERNAL: broken"


class TestNoAnswer:
    async def test_a_message_over_the_servers_limit_is_told_with_what_to_do(self, connect: Any) -> None:
        async with serving(message_bytes=1000) as small:
            with pytest.raises(InvalidRequest, match="`upload_threshold` below") as caught:
                await connect(small.address, retries=Retries(attempts=1)).infer("m", bytes(2000))
        assert not caught.value.retryable

    async def test_an_unreachable_server_is_named_with_its_address(self, connect: Any) -> None:
        caller = connect("127.0.0.1:1", retries=Retries(attempts=1))
        with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1") as caught:
            await caller.infer("m", b"a")
        assert caught.value.retryable

    async def test_a_call_ends_with_its_timeout(self, caller: Any, server: ScriptedServer) -> None:
        server.will("Infer", HANG)
        with pytest.raises(DeadlineExceeded, match="longer `timeout`"):
            await caller.infer("m", b"a", timeout=0.2)
        await server.left.wait()

    async def test_the_clients_own_timeout_holds_for_streams_too(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("InferStream", [HANG])
        with pytest.raises(DeadlineExceeded):
            await connect(server.address, timeout=0.2).stream("m", b"a")

    async def test_the_timeout_covers_asking_for_the_models_declaration(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("GetModel", HANG)
        with pytest.raises(DeadlineExceeded):
            await caller.infer("m", b"a", {"k": 1}, timeout=0.2)


class TestRetries:
    @pytest.mark.parametrize(
        "refusal",
        [
            Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_s=0.001),
            Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN", retry_after_s=0.001),
            Refusal(Code.UNAVAILABLE),
        ],
        ids=["overloaded", "draining", "bare"],
    )
    async def test_a_retryable_refusal_is_tried_again(
        self, connect: Any, server: ScriptedServer, refusal: Refusal
    ) -> None:
        server.will("Infer", refusal, refusal, OK)
        await connect(server.address, retries=QUICK).infer("m", b"a")
        assert server.attempts("Infer") == 3

    async def test_the_last_refusal_is_raised_when_the_attempts_are_spent(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Infer", Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_s=1.5))
        with pytest.raises(Overloaded) as caught:
            await connect(server.address, retries=QUICK).infer("m", b"a")
        assert caught.value.retry_after_s == 1.5
        assert server.attempts("Infer") == 4

    async def test_other_statuses_are_not_tried_again(self, connect: Any, server: ScriptedServer) -> None:
        server.will("Infer", Refusal(Code.INVALID_ARGUMENT, "CORRUPT_MEDIA"))
        with pytest.raises(SidecarError):
            await connect(server.address, retries=QUICK).infer("m", b"a")
        assert server.attempts("Infer") == 1

    async def test_a_negative_push_back_forbids_the_retry(self, connect: Any, server: ScriptedServer) -> None:
        server.will("Infer", Refusal(Code.RESOURCE_EXHAUSTED, "MEDIA_TOO_LARGE", pushback_ms=-1))
        with pytest.raises(MediaTooLarge):
            await connect(server.address, retries=QUICK).infer("m", b"a")
        assert server.attempts("Infer") == 1

    async def test_what_can_never_fit_is_raised_at_once_by_a_name_of_its_own(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        facts = {"retryable": "false"}
        server.will(
            "Infer", Refusal(Code.RESOURCE_EXHAUSTED, "UNAFFORDABLE", facts=facts, pushback_ms=-1), OK
        )
        with pytest.raises(Unaffordable) as caught:
            await connect(server.address, retries=QUICK).infer("m", b"a")
        assert (caught.value.retryable, caught.value.retry_after_s) == (False, None)
        assert isinstance(caught.value, CallerError)
        assert server.attempts("Infer") == 1

    async def test_the_servers_push_back_sets_the_wait(self, connect: Any, server: ScriptedServer) -> None:
        server.will("Infer", Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED", pushback_ms=300), OK)
        begun = time.monotonic()
        await connect(server.address, retries=QUICK).infer("m", b"a")
        assert time.monotonic() - begun >= 0.3
        assert server.attempts("Infer") == 2

    async def test_nothing_is_tried_again_after_initial_metadata(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Infer", Refusal(Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", after_metadata=True), OK)
        with pytest.raises(UpstreamUnavailable):
            await connect(server.address, retries=QUICK).infer("m", b"a")
        assert server.attempts("Infer") == 1

    async def test_a_photo_larger_than_grpcs_own_retry_buffer_is_tried_again_whole(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Infer", Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED"), OK)
        photo = bytes(3 * 2**20)
        await connect(server.address, retries=QUICK).infer("m", photo)
        assert [photo, photo] == [message.media[0].inline for (message,) in server.seen["Infer"]]

    async def test_a_stream_refused_before_its_first_event_is_tried_again(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        end = preprocessor_pb2.InferStreamResponse(finished=preprocessor_pb2.Finished())
        server.will("InferStream", [Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN")], [end])
        await connect(server.address, retries=QUICK).stream("m", b"a")
        assert server.attempts("InferStream") == 2

    async def test_an_upload_that_fits_the_retry_buffer_is_tried_again_whole(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("InferUpload", Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN"), OK)
        await connect(server.address, retries=QUICK, upload_threshold=2).infer("m", b"abc")
        first, second = server.seen["InferUpload"]
        assert first == second

    async def test_one_attempt_means_no_retry(self, connect: Any, server: ScriptedServer) -> None:
        server.will("Infer", Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN"))
        with pytest.raises(CapacityError):
            await connect(server.address, retries=Retries(attempts=1)).infer("m", b"a")
        assert server.attempts("Infer") == 1

    async def test_retries_stop_for_a_while_when_most_calls_fail(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Infer", Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED"))
        caller = connect(server.address, retries=QUICK)
        for _ in range(4):
            with pytest.raises(Overloaded):
                await caller.infer("m", b"a")
        # Ten tokens, one a failed attempt, none tried again from five down: 4 attempts, then single ones.
        assert server.attempts("Infer") == 4 + 1 + 1 + 1

    async def test_the_timeout_ends_the_waiting_between_attempts(
        self, connect: Any, server: ScriptedServer
    ) -> None:
        server.will("Infer", Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED", pushback_ms=60_000))
        with pytest.raises(DeadlineExceeded):
            async with asyncio.timeout(10):
                await connect(server.address).infer("m", b"a", timeout=0.3)

    @pytest.mark.parametrize(
        "wrong", [{"attempts": 0}, {"attempts": 6}, {"first_backoff_s": 0.001}, {"factor": 0.5}]
    )
    def test_retries_that_grpc_cannot_do_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="found"):
            Retries(**wrong)
