"""TritonUpstream against a scripted server: what a model server should not do, and how it is told."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from typing import Any, Literal

import grpc
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from sidecar.deadline import Deadline
from sidecar.errors import (
    DeadlineExceeded,
    SettingsError,
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnimplemented,
)
from sidecar.media import DataType, Tensor
from sidecar.stages.deliver import outliving
from sidecar.stages.deliver.triton import TritonConfig, TritonUpstream
from sidecar.stages.deliver.upstream import Answer, Call
from tests.upstream.scripted import Cut, Fail, Hold, Say, ScriptedServer, scripted

X = Tensor("x", DataType.UINT8, (3,), b"abc")
CALL = Call("clip", (X,), request_id="r1", parameters={"max_tokens": 5})
SOON = 5.0


def says(data: bytes = b"abc", *, final: bool | None = None) -> Any:
    response = service_pb2.ModelInferResponse(model_name="clip", model_version="1")
    response.outputs.add(name="y", datatype="UINT8", shape=(3,))
    response.raw_output_contents.append(data)
    if final is not None:
        response.parameters["triton_final_response"].bool_param = final
    return response


def streamed(response: Any = None, error: str = "") -> Say:
    return Say(service_pb2.ModelStreamInferResponse(infer_response=response, error_message=error))


def the_end() -> Say:
    response = service_pb2.ModelInferResponse(model_name="clip")
    response.parameters["triton_final_response"].bool_param = True
    return streamed(response)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def upstream(server: ScriptedServer) -> AsyncIterator[TritonUpstream]:
    made = TritonUpstream(TritonConfig(server.address, cancel="always"))
    yield made
    await made.close()


async def collect(upstream: TritonUpstream, call: Call = CALL) -> list[bytes]:
    return [bytes(answer.outputs[0].data) async for answer in upstream.stream(call, Deadline.after(SOON))]


async def test_a_request_carries_its_tensors_its_id_its_parameters_and_its_deadline(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(Say(says(b"xyz")))
    answer = await upstream.infer(CALL, Deadline.after(SOON))
    seen = await server.arrival()
    assert answer == Answer((Tensor("y", DataType.UINT8, (3,), b"xyz"),), "clip", "1")
    assert (seen.request.id, seen.request.parameters["max_tokens"].int64_param) == ("r1", 5)
    assert list(seen.request.raw_input_contents) == [b"abc"]
    assert seen.time_left is not None
    assert SOON - 2 < seen.time_left <= SOON


async def test_without_a_deadline_none_is_sent(server: ScriptedServer, upstream: TritonUpstream) -> None:
    server.will(Say(says()))
    await upstream.infer(CALL, Deadline.after(None))
    assert (await server.arrival()).time_left is None


async def test_a_deadline_that_has_passed_sends_nothing(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    with pytest.raises(DeadlineExceeded, match="deliver"):
        await upstream.infer(CALL, Deadline(0))
    with pytest.raises(DeadlineExceeded, match="deliver"):
        await anext(upstream.stream(CALL, Deadline(0)))
    with pytest.raises(DeadlineExceeded, match="deliver"):
        await upstream.describe("clip", "", Deadline(0))
    assert server.connections == 0


STATUSES: list[tuple[grpc.StatusCode, str, type[UpstreamError]]] = [
    (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", UpstreamBusy),
    (grpc.StatusCode.UNAVAILABLE, "going down", UpstreamUnavailable),
    (grpc.StatusCode.INVALID_ARGUMENT, "no such shape", UpstreamRejected),
    (grpc.StatusCode.NOT_FOUND, "no such model", UpstreamModelMissing),
    (grpc.StatusCode.UNIMPLEMENTED, "decoupled", UpstreamUnimplemented),
    (grpc.StatusCode.CANCELLED, "drained", UpstreamFailed),
    (grpc.StatusCode.INTERNAL, "it broke", UpstreamFailed),
    (grpc.StatusCode.UNKNOWN, "it broke", UpstreamFailed),
]


@pytest.mark.parametrize(("code", "words", "expected"), STATUSES)
async def test_a_failed_call_keeps_its_meaning_in_both_kinds_of_call(
    server: ScriptedServer,
    upstream: TritonUpstream,
    code: grpc.StatusCode,
    words: str,
    expected: type[UpstreamError],
) -> None:
    server.will(Fail(code, words))
    with pytest.raises(expected, match=words):
        await upstream.infer(CALL, Deadline.after(SOON))
    server.will(Fail(code, words))
    with pytest.raises(expected, match=words):
        await collect(upstream)


async def test_a_late_answer_is_a_timeout_and_the_server_sees_the_end(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(Hold(), Say(says()))
    with pytest.raises(UpstreamTimeout):
        await upstream.infer(CALL, Deadline.after(0.2))
    await asyncio.wait_for((await server.arrival()).cancelled.wait(), SOON)


async def test_a_late_stream_is_a_timeout_and_the_server_sees_the_end(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says()), Hold(), the_end())
    stream = upstream.stream(CALL, Deadline.after(2.0))  # the first response comes well within it
    assert (await anext(stream)).outputs[0].data == b"abc"
    with pytest.raises(UpstreamTimeout):
        await anext(stream)
    await asyncio.wait_for((await server.arrival()).cancelled.wait(), SOON)


async def test_cancelling_the_task_cancels_the_call_at_the_server(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(Hold(), Say(says()))
    task = asyncio.create_task(upstream.infer(CALL, Deadline.after(SOON)))
    seen = await server.arrival()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(seen.cancelled.wait(), SOON)


@pytest.mark.parametrize(
    ("cancel", "name", "version", "cancels"),
    [
        ("auto", "triton", "2.51.0", False),
        ("auto", "triton", "2.57.0", True),
        ("auto", "triton", "of today", False),
        ("auto", "openvino", "2024.1", True),
        ("auto", "", "", True),
        ("never", "openvino", "2024.1", False),
        ("always", "triton", "2.51.0", True),
    ],
)
@pytest.mark.parametrize("leaves", ["cancelled", "late"])
async def test_a_call_whose_caller_left_is_cancelled_only_at_a_server_that_lives_through_it(
    server: ScriptedServer,
    cancel: Literal["auto", "always", "never"],
    name: str,
    version: str,
    *,
    cancels: bool,
    leaves: str,
) -> None:
    server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"])
    server.about = service_pb2.ServerMetadataResponse(name=name, version=version) if name else None
    upstream = TritonUpstream(TritonConfig(server.address, cancel=cancel))
    await upstream.describe("clip", "", Deadline.after(SOON))
    server.will(Hold(), Say(says(b"old")))
    late = leaves == "late"
    asking = asyncio.create_task(upstream.infer(CALL, Deadline.after(0.2 if late else SOON)))
    seen = await server.arrival()
    if not late:
        asking.cancel()
    with pytest.raises(UpstreamTimeout if late else asyncio.CancelledError):
        await asking
    if cancels:
        await asyncio.wait_for(seen.cancelled.wait(), SOON)
    else:
        assert (upstream.handover().detached, upstream.handover().detached_total) == (1, 1)
        server.release()
        while upstream.handover().detached:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        assert not seen.cancelled.is_set()
    server.will(Say(says(b"new")))
    assert (await upstream.infer(CALL, Deadline.after(SOON))).outputs[0].data == b"new"
    await upstream.close()


async def test_calls_without_callers_hold_so_much_and_the_next_keep_their_callers_places(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliving, "_FREED_BYTES", 5)
    upstream = TritonUpstream(TritonConfig(server.address, cancel="never"))
    askings = []
    for number in (1, 2):
        server.will(Hold(), Say(says(b"old")))
        askings.append(asyncio.create_task(upstream.infer(CALL, Deadline.after(SOON))))
        await server.arrival(number)
    askings[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await askings[0]
    for _ in range(2):  # nor does it leave for being told again
        askings[1].cancel()
        assert await asyncio.wait([askings[1]], timeout=0.05) == (set(), {askings[1]})
    server.release()
    with pytest.raises(asyncio.CancelledError):
        await askings[1]
    assert not any(seen.cancelled.is_set() for seen in server.seen)
    await upstream.close()


async def test_a_call_that_keeps_its_callers_place_for_too_long_is_cancelled(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliving, "_FREED_BYTES", 1)
    monkeypatch.setattr(outliving, "_STAYS_S", 0.05)
    upstream = TritonUpstream(TritonConfig(server.address, cancel="never"))
    server.will(Hold())
    asking = asyncio.create_task(upstream.infer(CALL, Deadline.after(SOON)))
    seen = await server.arrival()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(seen.cancelled.wait(), SOON)
    assert upstream.handover().detached == 0
    await upstream.close()


async def test_past_all_that_they_may_hold_the_next_are_cancelled(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliving, "_FREED_BYTES", 5)
    monkeypatch.setattr(outliving, "_MOST_BYTES", 5)
    upstream = TritonUpstream(TritonConfig(server.address, cancel="never"))
    for number in (1, 2):
        server.will(Hold())
        asking = asyncio.create_task(upstream.infer(CALL, Deadline.after(SOON)))
        seen = await server.arrival(number)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await asyncio.wait_for(seen.cancelled.wait(), SOON)
    assert (upstream.handover().detached, server.seen[0].cancelled.is_set()) == (1, False)
    server.release()
    await upstream.close()


async def test_cancelling_the_task_that_reads_a_stream_cancels_it_at_the_server(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says()), Hold(), the_end())
    task = asyncio.create_task(collect(upstream))
    seen = await server.arrival()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(seen.cancelled.wait(), SOON)


async def test_closing_the_iterator_cancels_the_stream_at_the_server(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says()), Hold(), the_end())
    async with aclosing(upstream.stream(CALL, Deadline.after(SOON))) as stream:
        assert await anext(stream)
    await asyncio.wait_for((await server.arrival()).cancelled.wait(), SOON)


async def test_an_answer_after_the_caller_left_disturbs_nobody(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(Hold(), Say(says(b"old")))
    task = asyncio.create_task(upstream.infer(CALL, Deadline.after(SOON)))
    await server.arrival()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.will(Say(says(b"new")))
    server.release()
    assert (await upstream.infer(CALL, Deadline.after(SOON))).outputs[0].data == b"new"


@pytest.mark.parametrize(
    ("reply", "says_so"),
    [
        (says(b""), "numpy<2"),
        (says(b"ab"), "holds 2 bytes where UINT8"),
        (service_pb2.ModelInferResponse(), "without any output"),
        (says().SerializeToString()[:-2], "no ModelInferResponse"),
        (b"\xff\xff\xff", "no ModelInferResponse"),
    ],
    ids=["no bytes", "short", "no outputs", "cut short", "not protobuf"],
)
async def test_a_malformed_answer_is_the_model_server_s_failure(
    server: ScriptedServer, upstream: TritonUpstream, reply: Any, says_so: str
) -> None:
    server.will(Say(reply))
    with pytest.raises(UpstreamFailed, match=says_so):
        await upstream.infer(CALL, Deadline.after(SOON))


async def test_a_malformed_response_ends_a_stream_as_the_model_server_s_failure(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says()), streamed(says(b"")), the_end())
    stream = upstream.stream(CALL, Deadline.after(SOON))
    await anext(stream)
    with pytest.raises(UpstreamFailed, match="numpy<2"):
        await anext(stream)
    server.will(streamed(says()), Say(b"\xff\xff\xff"), the_end())
    with pytest.raises(UpstreamFailed, match="no ModelStreamInferResponse"):
        await collect(upstream)


async def test_a_stream_ends_at_its_empty_last_response(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says(b"one", final=False)), streamed(says(b"two", final=False)), the_end(), Hold())
    assert await collect(upstream) == [b"one", b"two"]
    seen = await server.arrival()
    assert seen.request.parameters["triton_enable_empty_final_response"].bool_param
    assert "triton_grpc_error" not in seen.headers


async def test_a_last_response_with_outputs_is_yielded(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says(b"one", final=True)), Hold())
    assert await collect(upstream) == [b"one"]


async def test_a_server_that_marks_no_last_response_ends_the_stream_instead(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says(b"one")))
    assert await collect(upstream) == [b"one"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Exceeds maximum queue size", UpstreamBusy),
        ("Request for unknown model: 'clip' is not found", UpstreamModelMissing),
        ("the weights are on fire", UpstreamFailed),
    ],
)
async def test_an_error_inside_a_stream_keeps_its_meaning_and_ends_it(
    server: ScriptedServer, upstream: TritonUpstream, words: str, expected: type[UpstreamError]
) -> None:
    server.will(streamed(says()), streamed(error=words), Hold())
    stream = upstream.stream(CALL, Deadline.after(SOON))
    await anext(stream)
    with pytest.raises(expected, match=words):
        await anext(stream)
    await asyncio.wait_for((await server.arrival()).cancelled.wait(), SOON)


async def test_a_connection_that_dies_mid_request_is_told_so(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(Cut(), Hold())
    with pytest.raises(UpstreamUnavailable) as failure:
        await upstream.infer(CALL, Deadline.after(SOON))
    assert failure.value.retryable


async def test_a_connection_that_dies_mid_stream_is_told_so_after_what_came(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(streamed(says()), Hold())
    stream = upstream.stream(CALL, Deadline.after(SOON))
    assert await anext(stream)
    server.cut()
    with pytest.raises(UpstreamUnavailable):
        await anext(stream)


async def test_a_server_that_is_not_there_is_told_at_once(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.cut()
    begun = time.monotonic()
    with pytest.raises(UpstreamUnavailable, match="address in the settings"):
        await upstream.infer(CALL, Deadline.after(60))
    with pytest.raises(UpstreamUnavailable):
        await collect(upstream)
    with pytest.raises(UpstreamUnavailable):
        await upstream.describe("clip", "", Deadline.after(60))
    assert time.monotonic() - begun < SOON


async def test_a_server_that_comes_back_is_used_again_within_a_second(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.cut()
    gone_until = time.monotonic() + 2
    while time.monotonic() < gone_until:
        with pytest.raises(UpstreamUnavailable):
            await upstream.infer(CALL, Deadline.after(SOON))
        await asyncio.sleep(0.02)
    await server.mend()
    back = time.monotonic()
    server.will(Say(says()))
    while True:
        try:
            await upstream.infer(CALL, Deadline.after(SOON))
        except UpstreamUnavailable:
            await asyncio.sleep(0.02)
        else:
            break
    assert time.monotonic() - back < 1


async def test_a_host_that_never_answers_the_connection_is_given_up_in_time() -> None:
    # A listener that accepts nothing, with its backlog taken, leaves the next attempt hanging.
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        upstream = TritonUpstream(TritonConfig(f"127.0.0.1:{port}", connect_timeout_s=0.3))
        with pytest.raises(UpstreamUnavailable):
            await upstream.infer(CALL, Deadline.after(SOON))
        await upstream.close()


async def test_closing_ends_calls_under_way_without_cancelling_their_tasks(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.will(Hold())
    server.will(Hold())
    calls = [
        asyncio.create_task(upstream.infer(CALL, Deadline.after(SOON))),
        asyncio.create_task(collect(upstream)),
    ]
    await server.arrival(2)
    await upstream.close()
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(ended, UpstreamUnavailable)
        assert "closed on this side" in ended.message


async def test_a_closed_upstream_says_so(upstream: TritonUpstream) -> None:
    await upstream.close()
    await upstream.close()
    with pytest.raises(UpstreamUnavailable, match="closed on this side"):
        await upstream.infer(CALL, Deadline.after(SOON))
    with pytest.raises(UpstreamUnavailable, match="closed on this side"):
        await collect(upstream)
    assert repr(upstream).endswith("closed)")


async def test_a_server_without_configurations_is_described_by_its_metadata(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"])
    server.metadata.inputs.add(name="x", datatype="FP32", shape=(-1, 3))
    found = await upstream.describe("clip", "", Deadline.after(SOON))
    assert (found.inputs[0].shape, found.max_batch_size, found.decoupled) == ((-1, 3), 0, False)


async def test_a_description_joins_metadata_and_configuration(
    server: ScriptedServer, upstream: TritonUpstream
) -> None:
    server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"])
    server.metadata.inputs.add(name="x", datatype="FP32", shape=(-1, 3))
    server.config = service_pb2.ModelConfigResponse(config=model_config_pb2.ModelConfig(max_batch_size=4))
    found = await upstream.describe("clip", "", Deadline.after(None))
    assert (found.version, found.inputs[0].shape, found.max_batch_size) == ("1", (3,), 4)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, UpstreamModelMissing),
        (grpc.StatusCode.UNIMPLEMENTED, UpstreamUnimplemented),
        (grpc.StatusCode.INTERNAL, UpstreamFailed),
    ],
)
async def test_a_model_that_cannot_be_described_keeps_the_reason(
    server: ScriptedServer, upstream: TritonUpstream, code: grpc.StatusCode, expected: type[UpstreamError]
) -> None:
    server.metadata = Fail(code, "no")
    with pytest.raises(expected):
        await upstream.describe("clip", "", Deadline.after(SOON))


async def test_a_message_larger_than_allowed_is_not_sent(server: ScriptedServer) -> None:
    upstream = TritonUpstream(TritonConfig(server.address, message_bytes=1024))
    with pytest.raises(UpstreamRejected, match="larger than max"):
        await upstream.infer(
            Call("clip", (Tensor("x", DataType.UINT8, (2048,), bytes(2048)),)), Deadline.after(SOON)
        )
    await upstream.close()


@pytest.mark.parametrize("address", ["localhost:8001", "10.0.0.7:1", "[::1]:8001", "unix:/run/t.sock:8001"])
def test_addresses_are_host_and_port_or_a_unix_socket(address: str) -> None:
    assert TritonConfig(address).address == address


@pytest.mark.parametrize(
    "address", ["", "localhost", "http://triton:8001", "triton:", "unix:", "a b:1", ":80"]
)
def test_another_address_is_refused_by_its_key(address: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        TritonConfig(address)
    assert refusal.value.facts["key"] == "triton.address"
