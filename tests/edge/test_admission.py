"""Admission as callers meet it: estimates, tenants, priorities, and refusals that say when to come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc

from inference_client import Client
from sidecar.deadline import Deadline
from sidecar.edge import receive
from sidecar.entry import Verb
from sidecar.errors import InvalidRequest
from sidecar.media import Cost, Modality
from sidecar.stages.admit.gate import Ticket
from sidecar.stages.admit.turns import Asker, Priority
from tests.isolation.inside import CLIP, Inside, inside, picture, until
from tests.running import Running

MODELS = {"clip": CLIP, "qwen2_vl": "qwen2-vl-2b-instruct"}
PHOTO = media_pb2.MediaInfo(
    modality=media_pb2.MODALITY_IMAGE,
    format="jpeg",
    encoded_bytes=4_000_000,
    image=media_pb2.ImageInfo(width=4000, height=3000),
)
Stub = preprocessor_pb2_grpc.PreprocessorStub
_Priority: TypeAlias = preprocessor_pb2.Priority.ValueType
UNSAID = preprocessor_pb2.PRIORITY_UNSPECIFIED


@pytest.fixture(scope="module")
def narrow() -> Iterator[Inside]:
    """One slot, a queue of six, and threads, which the tests need not wait for."""
    settings = ("gate.max_queued=6", "threads.image=1", "threads.express=0", "workers=0", "log.level=error")
    with inside(MODELS, None, *settings) as it:
        yield it


@pytest.fixture
def stub(narrow: Inside) -> Iterator[Stub]:
    with grpc.insecure_channel(narrow.address) as channel:
        yield Stub(channel)


def request(items: int = 1, priority: _Priority = UNSAID) -> preprocessor_pb2.PreprocessRequest:
    media = [media_pb2.Media(inline=picture(number)) for number in range(items)]
    return preprocessor_pb2.PreprocessRequest(model="clip", media=media, priority=priority)


@contextmanager
def busy(it: Inside, waiting: int = 0) -> Iterator[None]:
    """The slot is taken, and so many items wait before all others."""

    async def take() -> list[Ticket]:
        asker = Asker(Modality.IMAGE, "clip")
        first = it.gate.enter(asker, [Cost(20.0, 1)], [0])
        tickets = [await first.ticket(0)]
        if waiting:
            places.append(it.gate.enter(asker, [Cost(20.0, 1)] * waiting, [0] * waiting))
        return tickets

    async def give_back() -> None:
        for place in places:
            place.leave()
        for ticket in tickets:
            ticket.release()

    places: list = []  # type: ignore[type-arg]
    tickets = it.sidecar.do(take())
    try:
        yield
    finally:
        it.sidecar.do(give_back())


def queued(it: Inside) -> int:
    return it.gate.statistics()[Modality.IMAGE].queued


def refusals(it: Inside) -> int:
    return it.gate.statistics()[Modality.IMAGE].refused_total


def refused_by(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value


def told(error: grpc.RpcError) -> tuple[str, float | None]:
    """The reason, and the hinted seconds."""
    status: status_pb2.Status = rpc_status.from_call(error)
    info, retry, hint = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), None
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            hint = retry.retry_delay.ToTimedelta().total_seconds()
    return info.reason, hint


def pushback_ms(error: grpc.RpcError) -> int:
    trailers = {datum.key: datum.value for datum in error.trailing_metadata()}
    return int(trailers["grpc-retry-pushback-ms"])


class TestEstimates:
    def test_an_estimate_tells_facts_cost_and_tokens_and_does_no_work(
        self, narrow: Inside, stub: Stub
    ) -> None:
        before = narrow.workers.statistics()[Modality.IMAGE].finished_total
        media = [media_pb2.Media(inline=picture(1, 280, 140)), media_pb2.Media(inline=b"#!/bin/sh")]
        answer = stub.Estimate(preprocessor_pb2.EstimateRequest(model="qwen2_vl", media=media))
        good, bad = answer.items
        assert (good.info.image.width, good.info.image.height, good.placeholder_tokens) == (280, 140, 50)
        assert good.cost.predicted_cpu_ms > 0
        assert good.cost.decoded_bytes == 280 * 140 * 3
        assert good.cost.output_bytes > 0
        assert (len(good.tensors), good.cost.actual_cpu_ms) == (0, 0)
        assert bad.problem.reason == "UNSUPPORTED_MEDIA"
        assert answer.cost.predicted_cpu_ms == pytest.approx(good.cost.predicted_cpu_ms)
        assert answer.wait_s >= good.cost.predicted_cpu_ms / 1e3
        assert not answer.HasField("refusal")
        assert narrow.workers.statistics()[Modality.IMAGE].finished_total == before

    def test_facts_will_do_for_media_that_is_not_sent(self, stub: Stub) -> None:
        media = [media_pb2.Media(inline=picture(1, 280, 140, "JPEG"))]
        sent = stub.Estimate(preprocessor_pb2.EstimateRequest(model="clip", media=media)).items[0]
        known = stub.Estimate(preprocessor_pb2.EstimateRequest(model="clip", infos=[sent.info])).items[0]
        assert known.cost == sent.cost
        assert known.info == sent.info

    def test_dearer_media_is_foretold_dearer(self, stub: Stub) -> None:
        small = media_pb2.MediaInfo()
        small.CopyFrom(PHOTO)
        small.image.width, small.image.height, small.encoded_bytes = 400, 300, 40_000
        answer = stub.Estimate(preprocessor_pb2.EstimateRequest(model="clip", infos=[small, PHOTO]))
        first, second = (item.cost.predicted_cpu_ms for item in answer.items)
        assert second > 5 * first > 0

    def test_a_refusal_is_told_and_is_none_of_the_estimate_itself(self, narrow: Inside, stub: Stub) -> None:
        with busy(narrow, waiting=6):
            answer = stub.Estimate(preprocessor_pb2.EstimateRequest(model="clip", infos=[PHOTO]))
        assert answer.refusal.reason == "OVERLOADED"
        assert answer.refusal.retryable
        assert float(answer.refusal.metadata["retry_after_s"]) > 0
        assert answer.items[0].cost.predicted_cpu_ms > 0

    def test_its_deadline_is_taken_for_that_of_the_call(self, stub: Stub) -> None:
        asked = preprocessor_pb2.EstimateRequest(model="clip", infos=[PHOTO] * 6)
        late = stub.Estimate(asked, timeout=0.1)
        assert (late.refusal.reason, late.refusal.retryable) == ("UNAFFORDABLE", False)
        assert "even where nothing waits" in late.refusal.message
        early = stub.Estimate(asked, timeout=60)
        assert not early.HasField("refusal")

    def test_the_client_asks_as_it_sends(self, narrow: Inside) -> None:
        with Client(narrow.address) as client:
            estimate = client.estimate("clip", picture(1))
            assert (estimate.refusal, len(estimate.items)) == (None, 1)
            assert estimate.cost.predicted_cpu_ms > 0


def noting(answered: list[str], name: str) -> Callable[[object], None]:
    return lambda _: answered.append(name)


class TestTurns:
    def order(self, narrow: Inside, calls: Sequence[tuple[str, _Priority, str]]) -> list[str]:
        """In which order calls, each (name, priority, tenant), are answered when they came while all was busy."""
        answered: list[str] = []
        with grpc.insecure_channel(narrow.address) as channel:
            with busy(narrow):
                futures = []
                for name, priority, tenant in calls:
                    future = Stub(channel).Preprocess.future(
                        request(priority=priority),
                        metadata=(("x-tenant-id", tenant),),
                    )
                    future.add_done_callback(noting(answered, name))
                    futures.append(future)
                    until(lambda: queued(narrow) == len(futures), lambda: "not queued")
            for future in futures:
                future.result()
            until(lambda: len(answered) == len(calls), lambda: f"answered {answered}")
        return answered

    def test_a_callers_urgent_work_goes_before_its_own_other(self, narrow: Inside) -> None:
        calls = [
            ("batch", preprocessor_pb2.PRIORITY_BATCH, ""),
            ("unsaid", UNSAID, ""),
            ("probe", preprocessor_pb2.PRIORITY_PROBE, ""),
        ]
        assert self.order(narrow, calls) == ["probe", "unsaid", "batch"]

    def test_a_tenant_with_little_to_do_does_not_wait_behind_one_with_much(self, narrow: Inside) -> None:
        calls = [("noisy 1", UNSAID, "noisy"), ("noisy 2", UNSAID, "noisy"), ("quiet", UNSAID, "quiet")]
        found = self.order(narrow, calls)
        assert found.index("quiet") < found.index("noisy 2")

    def test_a_tenant_has_its_part_of_the_queue_and_others_keep_theirs(
        self, narrow: Inside, stub: Stub
    ) -> None:
        noisy, quiet = (("x-tenant-id", "noisy"),), (("x-tenant-id", "quiet"),)
        with busy(narrow):
            futures = []
            for tenant in (noisy, noisy, noisy, quiet):
                if tenant is quiet:
                    error = refused_by(lambda: stub.Preprocess(request(), metadata=noisy))
                    assert told(error)[0] == "OVERLOADED"
                    assert "3 items of tenant 'noisy' waiting, and 3 may" in str(error.details())
                futures.append(stub.Preprocess.future(request(), metadata=tenant))
                until(lambda: queued(narrow) == len(futures), lambda: "not queued")
        assert all(future.result().items for future in futures)


class TestPriorities:
    @pytest.mark.parametrize(
        ("level", "found"),
        [
            (0, Priority.INTERACTIVE),
            (1, Priority.INTERACTIVE),
            (2, Priority.BATCH),
            (9, Priority.BATCH),
        ],
    )
    def test_tritons_own_levels_are_understood(self, level: int, found: Priority) -> None:
        message = preprocessor_pb2.InferRequest(model="clip")
        message.parameters["priority"].int64_value = level
        asked = receive.asked(Verb.INFER, message, Deadline(None))
        assert (asked.priority, asked.parameters) == (found, {"priority": level})

    def test_what_the_request_says_itself_counts_more(self) -> None:
        message = preprocessor_pb2.InferRequest(model="clip", priority=preprocessor_pb2.PRIORITY_PROBE)
        message.parameters["priority"].int64_value = 9
        assert receive.asked(Verb.INFER, message, Deadline(None)).priority is Priority.PROBE

    @pytest.mark.parametrize("value", ["high", -1, True])
    def test_a_level_that_is_none_is_refused(self, value: str | int) -> None:
        message = preprocessor_pb2.InferRequest(model="clip")
        kind = {bool: "bool_value", int: "int64_value", str: "string_value"}[type(value)]
        setattr(message.parameters["priority"], kind, value)
        with pytest.raises(InvalidRequest, match="'priority'"):
            receive.asked(Verb.INFER, message, Deadline(None))

    def test_a_priority_that_the_contract_does_not_know_is_refused(self, stub: Stub) -> None:
        message = request()
        message.priority = 77  # type: ignore[assignment]
        error = refused_by(lambda: stub.Preprocess(message))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "`priority` 77" in str(error.details())

    @pytest.mark.triton
    def test_the_model_server_takes_the_parameter_along(self, sidecar: Running) -> None:
        with Client(sidecar.address) as client:
            plain = client.infer("clip", picture(1)).tensor("checksum")
            hurried = client.infer("clip", picture(1), parameters={"priority": 1}).tensor("checksum")
        assert list(plain) == list(hurried)


RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.02s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)


@pytest.fixture
def retrying(narrow: Inside) -> Iterator[Stub]:
    """A caller whose gRPC tries again by itself."""
    options = [("grpc.service_config", RETRYING), ("grpc.enable_retries", 1)]
    with grpc.insecure_channel(narrow.address, options=options) as channel:
        yield Stub(channel)


class TestRefusals:
    def test_a_refusal_comes_before_the_reply_begins_and_says_when_to_come_back(
        self, narrow: Inside, stub: Stub
    ) -> None:
        with busy(narrow, waiting=6):
            error = refused_by(lambda: stub.Preprocess(request()))
        reason, hint_s = told(error)
        assert (error.code(), reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert hint_s is not None
        assert pushback_ms(error) >= 10
        assert pushback_ms(error) == pytest.approx(hint_s * 1e3, abs=1)
        # Trailers alone: gRPC commits a call to its attempt with the first header.
        assert isinstance(error, grpc.Call)
        assert not error.initial_metadata()

    def test_a_retry_that_obeys_the_push_back_is_served(self, narrow: Inside, retrying: Stub) -> None:
        before = refusals(narrow)
        with busy(narrow, waiting=6):
            call = retrying.Preprocess.future(request())
            until(lambda: refusals(narrow) > before, lambda: "not refused")
        assert not call.result().items[0].HasField("problem")

    def test_what_can_never_be_let_in_is_not_tried_again(self, narrow: Inside, retrying: Stub) -> None:
        before = refusals(narrow)
        error = refused_by(lambda: retrying.Preprocess(request(items=7)))
        assert told(error) == ("UNAFFORDABLE", None)
        assert (error.code(), pushback_ms(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, -1)
        assert "`gate.max_queued` 6" in str(error.details())
        assert refusals(narrow) == before + 1

    def test_an_upload_is_refused_before_its_first_chunk(self, narrow: Inside, stub: Stub) -> None:
        sent: list[int] = []
        ended = False

        def parts() -> Iterator[preprocessor_pb2.PreprocessUploadRequest]:
            chunked = media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=1_000_000))
            first = preprocessor_pb2.PreprocessRequest(model="clip", media=[chunked])
            yield preprocessor_pb2.PreprocessUploadRequest(request=first)
            until(lambda: ended, lambda: "not refused")
            sent.append(1)

        with busy(narrow, waiting=6):
            call = stub.PreprocessUpload.future(parts())
            error = call.exception()
        ended = True
        assert isinstance(error, grpc.RpcError)
        assert told(error)[0] == "OVERLOADED"
        assert sent == []

    def test_nothing_is_left_of_all_that_was_refused(self, narrow: Inside) -> None:
        narrow.nothing_left()


def test_a_models_own_limit_refuses_by_its_own_key_and_leaves_other_models_alone() -> None:
    settings = ("models.clip.limits.image_side=40", "models.qwen2_vl.limits.media_bytes=10", "workers=0")
    with inside(MODELS, None, *settings) as it, Client(it.address) as client:
        (wide,) = client.preprocess("clip", [picture(1)])
        assert wide.problem is not None
        assert wide.problem.facts["limit"] == "models.clip.limits.image_side"
        (long,) = client.preprocess("qwen2_vl", [picture(1)])
        assert long.problem is not None
        assert long.problem.facts["limit"] == "models.qwen2_vl.limits.media_bytes"
