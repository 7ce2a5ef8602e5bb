"""Hand-over by shared memory against a scripted server: refusals, restarts, lost connections, departed callers."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from sidecar.deadline import Deadline
from sidecar.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnavailable
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.stages.deliver import shared_memory
from sidecar.stages.deliver.shared_memory import SLOT_FROM_BYTES, foretold
from sidecar.stages.deliver.triton import TritonConfig, TritonUpstream
from sidecar.stages.deliver.upstream import Answer, Call, Signature
from tests.stages.deliver.conftest import Bench
from tests.upstream.scripted import Fail, Hold, Say, ScriptedServer, scripted

X = Tensor("x", DataType.UINT8, (3,), b"abc")
BIG = SLOT_FROM_BYTES
# "y" is large enough for a slot, "z" too small for one, "w" of no certain size.
SIGNATURE = Signature(
    "clip",
    "1",
    (TensorSpec("x", DataType.UINT8, (3,)),),
    (
        TensorSpec("y", DataType.UINT8, (BIG,)),
        TensorSpec("z", DataType.UINT8, (1,)),
        TensorSpec("w", DataType.BYTES, (BIG,)),
    ),
    max_batch_size=0,
    decoupled=False,
)
SOON = 5.0
REGION = "shared_memory_region"


def says(**outputs: bytes | None) -> Say:
    """An answer with these outputs; None for one in its slot."""
    response = service_pb2.ModelInferResponse(model_name="clip", model_version="1")
    for name, data in outputs.items():
        response.outputs.add(name=name, datatype="UINT8", shape=(BIG if data is None else len(data),))
        response.raw_output_contents.append(data or b"")
    return Say(response)


def streamed(data: bytes) -> Say:
    response = says(y=data).message
    response.parameters["triton_final_response"].bool_param = True
    return Say(service_pb2.ModelStreamInferResponse(infer_response=response))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def upstream(server: ScriptedServer, bench: Bench) -> AsyncIterator[TritonUpstream]:
    made = TritonUpstream(TritonConfig(server.address, cancel="always"), bench.arena)
    yield made
    await made.close()


def call_of(bench: Bench, *, signature: Signature | None = None) -> Call:
    inputs = bench.put([X])
    return Call("clip", inputs, slots=tuple(bench.leases), signature=signature)


def is_shared(request: Any) -> bool:
    return any(REGION in tensor.parameters for tensor in (*request.inputs, *request.outputs))


async def until(holds: Callable[[], bool]) -> None:
    """Waits until that holds, a few seconds at most."""
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def told(records: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in records.records
        if record.name == shared_memory.__name__ and record.levelno >= logging.INFO
    ]


async def test_first_callers_wait_for_one_registration_and_no_payload_is_copied(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    call = call_of(bench)
    for _ in range(8):
        server.will(says(y=b"xyz"))
    answers = await asyncio.gather(*(upstream.infer(call, Deadline.after(SOON)) for _ in range(8)))
    assert [bytes(answer.outputs[0].data) for answer in answers] == [b"xyz"] * 8
    assert server.registrations == 1
    assert server.regions == {bench.arena.name}
    found = upstream.handover()
    assert (found.path, found.reason, found.registrations_total) == ("shared_memory", "", 1)
    assert (found.shared_calls_total, found.raw_calls_total) == (8, 0)
    assert (found.shared_bytes_total, found.copied_bytes_total) == (24, 0)
    assert [line.partition(":")[0] for line in told(caplog)] == [
        "tensors go to the model server by shared memory"
    ]


async def test_a_description_registers_too(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    assert upstream.handover().path == "unknown"
    server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"])
    await upstream.describe("clip", "", Deadline.after(SOON))
    assert server.regions == {bench.arena.name}
    assert upstream.handover().path == "shared_memory"


REFUSALS = [
    (
        grpc.StatusCode.UNAVAILABLE,
        "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.",
    ),
    (grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    (grpc.StatusCode.INVALID_ARGUMENT, "shared memory is disabled"),
    (grpc.StatusCode.INTERNAL, "Unable to open shared memory region: '/sidecar'"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[code.name for code, _ in REFUSALS])
async def test_a_server_that_refuses_gets_bytes_and_it_is_said_once_why_and_what_to_do(
    server: ScriptedServer,
    upstream: TritonUpstream,
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    refusal: tuple[grpc.StatusCode, str],
) -> None:
    code, words = refusal
    server.refuses = Fail(code, words)
    call = call_of(bench, signature=SIGNATURE)
    for _ in range(3):
        server.will(says(y=b"xyz"))
        answer = await upstream.infer(call, Deadline.after(SOON))
        assert (bytes(answer.outputs[0].data), answer.slots) == (b"xyz", ())
    assert [is_shared(seen.request) for seen in server.seen] == [False] * 3
    assert list(server.seen[0].request.raw_input_contents) == [b"abc"]
    assert server.registrations == 1
    (line,) = told(caplog)
    assert code.name in line
    assert words in line
    assert "--allow-client-shm=true" in line
    assert "/dev/shm" in line
    found = upstream.handover()
    assert (found.path, found.raw_calls_total, found.copied_bytes_total) == ("raw", 3, 9)
    assert words in found.reason


async def test_a_refusal_is_asked_about_again_when_its_time_has_come(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refuses = Fail(grpc.StatusCode.UNIMPLEMENTED)
    monkeypatch.setattr(shared_memory, "_LAST_PAUSE_S", 0.0)
    call = call_of(bench)
    server.will(says(y=b"1"))
    await upstream.infer(call, Deadline.after(SOON))
    upstream._lender._ask_at = 0.0
    for _ in range(2):
        server.will(says(y=b"1"))
        await upstream.infer(call, Deadline.after(SOON))
    assert server.registrations == 3
    server.refuses = None
    server.will(says(y=b"1"))
    await upstream.infer(call, Deadline.after(SOON))
    assert upstream.handover().path == "shared_memory"


async def test_a_server_that_refused_is_asked_again_after_its_restart(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.refuses = Fail(grpc.StatusCode.UNIMPLEMENTED)
    call = call_of(bench)
    server.will(says(y=b"1"))
    await upstream.infer(call, Deadline.after(SOON))
    server.cut()
    with pytest.raises(UpstreamUnavailable):
        await upstream.infer(call, Deadline.after(SOON))
    server.refuses = None
    await back(server, upstream, call)
    assert is_shared(server.seen[-1].request)


async def back(server: ScriptedServer, upstream: TritonUpstream, call: Call) -> None:
    """Lets connections be made again, and asks until one is there and the path is known."""
    await server.mend()
    async with asyncio.timeout(SOON):
        while True:
            server.will(says(y=b"1"))
            try:
                await upstream.infer(call, Deadline.after(SOON))
            except UpstreamUnavailable:
                server.unsay()
                await asyncio.sleep(0.02)
            else:
                # A call may slip through just as the connection is there again, before the region is asked for.
                if upstream.handover().path != "unknown":
                    return


async def test_a_restarted_server_is_told_again_without_the_callers_noticing(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    call = call_of(bench)
    server.will(says(y=b"1"))
    await upstream.infer(call, Deadline.after(SOON))
    server.forget()
    for _ in range(4):
        server.will(says(y=b"2"))
    answers = await asyncio.gather(*(upstream.infer(call, Deadline.after(SOON)) for _ in range(4)))
    assert [bytes(answer.outputs[0].data) for answer in answers] == [b"2"] * 4
    assert (server.registrations, upstream.handover().registrations_total) == (2, 2)
    assert upstream.handover().raw_calls_total == 0


async def test_a_restarted_server_is_told_again_at_a_stream_s_first_response(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    call = call_of(bench)
    server.will(streamed(b"1"))
    assert len([answer async for answer in upstream.stream(call, Deadline.after(SOON))]) == 1
    server.forget()
    server.will(streamed(b"2"))
    found = [bytes(answer.outputs[0].data) async for answer in upstream.stream(call, Deadline.after(SOON))]
    assert (found, server.registrations) == ([b"2"], 2)
    assert is_shared(server.seen[-1].request)
    assert bench.pinned == 0


@pytest.mark.parametrize("kind", ["infer", "stream"])
async def test_a_server_that_comes_back_and_refuses_gets_bytes(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench, kind: str
) -> None:
    call = call_of(bench, signature=SIGNATURE)
    server.will(says(y=b"1"))
    await upstream.infer(call, Deadline.after(SOON))
    server.forget()
    server.refuses = Fail(grpc.StatusCode.UNIMPLEMENTED)
    if kind == "infer":
        server.will(says(y=b"2"))
        answer = await upstream.infer(call, Deadline.after(SOON))
        assert bytes(answer.outputs[0].data) == b"2"
    else:
        server.will(streamed(b"2"))
        assert [answer async for answer in upstream.stream(call, Deadline.after(SOON))]
    assert not is_shared(server.seen[-1].request)
    assert bench.leased == len(bench.leases)


async def test_a_server_that_goes_on_not_knowing_the_region_is_told_as_failing(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    class Forgetful(set[str]):
        def add(self, _: str) -> None:
            pass

    server.regions = Forgetful()
    with pytest.raises(UpstreamFailed, match="Unable to find shared memory region"):
        await upstream.infer(call_of(bench), Deadline.after(SOON))
    with pytest.raises(UpstreamFailed, match="Unable to find shared memory region"):
        await anext(upstream.stream(call_of(bench), Deadline.after(SOON)))


async def test_a_region_left_there_by_another_time_is_replaced(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.regions.add(bench.arena.name)
    server.will(says(y=b"1"))
    await upstream.infer(call_of(bench), Deadline.after(SOON))
    assert server.registrations == 2
    assert upstream.handover().path == "shared_memory"


async def test_a_connection_lost_and_found_again_keeps_the_registration(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    call = call_of(bench)
    server.will(says(y=b"1"))
    await upstream.infer(call, Deadline.after(SOON))
    server.cut()
    with pytest.raises(UpstreamUnavailable):
        await upstream.infer(call, Deadline.after(SOON))
    assert upstream.handover().path == "unknown"
    await back(server, upstream, call)
    assert upstream.handover().path == "shared_memory"
    assert upstream.handover().registrations_total == 1
    assert len(told(caplog)) == 1


async def test_inputs_are_pinned_for_as_long_as_the_server_may_read_them(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(Hold(), says(y=b"1"))
    asking = asyncio.create_task(upstream.infer(call_of(bench), Deadline.after(SOON)))
    await server.arrival()
    assert bench.pinned == 1
    server.release()
    await asking
    assert bench.pinned == 0


async def first(stream: AsyncGenerator[Answer, None]) -> Answer:
    async with aclosing(stream):
        return await anext(stream)


@pytest.mark.parametrize("kind", ["infer", "stream"])
async def test_a_cancelled_call_s_inputs_stay_pinned_a_while(
    server: ScriptedServer,
    upstream: TritonUpstream,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(shared_memory, "LINGER_S", 0.1)
    server.will(Hold())
    call = call_of(bench)
    asked: Coroutine[Any, Any, Answer]
    if kind == "stream":
        asked = first(upstream.stream(call, Deadline.after(SOON)))
    else:
        asked = upstream.infer(call, Deadline.after(SOON))
    asking = asyncio.create_task(asked)
    seen = await server.arrival()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bench.pinned == 1
    await asyncio.wait_for(seen.cancelled.wait(), SOON)
    await until(lambda: bench.pinned == 0)
    assert upstream.handover().detached_total == 0


async def test_a_call_with_outputs_in_slots_outlives_its_cancelled_caller(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(Hold(), says(y=None, z=b"1"))
    asking = asyncio.create_task(upstream.infer(call_of(bench, signature=SIGNATURE), Deadline.after(SOON)))
    seen = await server.arrival()
    assert seen.time_left is None
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (upstream.handover().detached, upstream.handover().detached_total) == (1, 1)
    assert (bench.leased, bench.pinned) == (2, 2)
    server.release()
    await until(lambda: upstream.handover().detached == 0)
    assert (bench.leased, bench.pinned) == (1, 0)
    assert not seen.cancelled.is_set()


async def test_a_call_with_outputs_in_slots_is_a_timeout_at_its_deadline_all_the_same(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(Hold(), Fail(grpc.StatusCode.INTERNAL, "too late"))
    with pytest.raises(UpstreamTimeout, match="Deadline Exceeded") as failure:
        await upstream.infer(call_of(bench, signature=SIGNATURE), Deadline.after(0.1))
    assert failure.value.facts["status"] == "DEADLINE_EXCEEDED"
    assert bench.pinned == 2
    server.release()
    await until(lambda: bench.pinned == 0)
    assert bench.leased == 1


async def test_outputs_of_certain_size_are_asked_for_in_slots_and_all_by_name(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(says(y=None, z=b"1"))
    answer = await upstream.infer(call_of(bench, signature=SIGNATURE), Deadline.after(SOON))
    request = server.seen[-1].request
    assert {output.name: REGION in output.parameters for output in request.outputs} == {
        "y": True,
        "z": False,
        "w": False,
    }
    assert [tensor.name for tensor in answer.outputs] == ["y", "z"]
    (slot,) = answer.slots
    assert answer.outputs[0].at == slot.offset
    assert (bench.leased, bench.pinned) == (2, 0)
    slot.release()


async def test_an_output_that_is_not_wanted_gets_no_slot(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(says(z=b"1"))
    call = replace(call_of(bench, signature=SIGNATURE), outputs=("z",))
    answer = await upstream.infer(call, Deadline.after(SOON))
    assert [output.name for output in server.seen[-1].request.outputs] == ["z"]
    assert answer.slots == ()


async def test_a_full_arena_leaves_outputs_to_be_sent_as_bytes(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    call = call_of(bench, signature=SIGNATURE)
    while (lease := bench.arena.try_take(SLOT_FROM_BYTES)) is not None:
        bench.leases.append(lease)
    server.will(says(y=bytes(BIG)))
    answer = await upstream.infer(call, Deadline.after(SOON))
    assert (answer.outputs[0].data, answer.slots) == (bytes(BIG), ())
    assert list(server.seen[-1].request.outputs) == []


async def test_calls_that_cannot_be_cancelled_leave_half_of_the_arena_to_others(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(says(y=b"1"))
    await upstream.infer(call_of(bench), Deadline.after(SOON))
    call = Call("clip", (X,), signature=SIGNATURE)
    for _ in range(40):
        server.will(Hold(), says(y=b"1"))
    asking = [asyncio.create_task(upstream.infer(call, Deadline.after(SOON))) for _ in range(40)]
    await server.arrival(41)
    assert sum(is_shared(seen.request) for seen in server.seen[1:]) == 32
    assert bench.pinned == 32
    server.release()
    await asyncio.gather(*asking)
    server.will(says(y=None))
    (await upstream.infer(call, Deadline.after(SOON))).slots[0].release()


async def test_a_malformed_answer_gives_its_slots_back(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    call = call_of(bench, signature=SIGNATURE)
    server.will(Say(b"\xff\xff"))
    with pytest.raises(UpstreamFailed):
        await upstream.infer(call, Deadline.after(SOON))
    assert (bench.leased, bench.pinned) == (1, 0)


async def test_an_output_larger_than_declared_is_fetched_as_bytes_from_then_on(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    words = (
        f"shared memory size specified with the request for output 'y' ({BIG} bytes) should be at least "
        f"{BIG + 1} bytes to hold the results"
    )
    call = call_of(bench, signature=SIGNATURE)
    server.will(Fail(grpc.StatusCode.INTERNAL, words))
    for _ in range(2):
        server.will(says(y=bytes(BIG + 1)))
        answer = await upstream.infer(call, Deadline.after(SOON))
        assert (answer.outputs[0].nbytes, answer.slots) == (BIG + 1, ())
    assert [len(seen.request.outputs) for seen in server.seen] == [3, 0, 0]
    assert [is_shared(seen.request) for seen in server.seen] == [True] * 3
    server.metadata = service_pb2.ModelMetadataResponse(name="clip", versions=["1"])
    await upstream.describe("clip", "", Deadline.after(SOON))
    server.will(says(y=None))
    (await upstream.infer(call, Deadline.after(SOON))).slots[0].release()


async def lose(server: ScriptedServer, upstream: TritonUpstream, call: Call) -> None:
    """Breaks the connection under a call with outputs in slots."""
    server.will(Hold())
    asking = asyncio.create_task(upstream.infer(call, Deadline.after(SOON)))
    await server.arrival(len(server.seen) + 1)
    server.cut()
    with pytest.raises(UpstreamUnavailable):
        await asking


async def test_outputs_of_a_lost_connection_are_held_until_the_server_has_proved_that_nobody_uses_them(
    server: ScriptedServer,
    upstream: TritonUpstream,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shared_memory, "_SETTLE_S", 0.02)
    monkeypatch.setattr(shared_memory, "LINGER_S", 0.0)
    caplog.set_level(logging.INFO)
    call = call_of(bench, signature=SIGNATURE)
    server.busy = True
    await lose(server, upstream, call)
    assert upstream.handover().limbo == 1
    await server.mend()
    await until(lambda: upstream.handover().path == "raw")
    assert (bench.leased, upstream.handover().limbo) == (2, 1)
    server.will(says(y=b"1"))
    assert (await upstream.infer(call, Deadline.after(SOON))).slots == ()
    assert not is_shared(server.seen[-1].request)
    server.busy = False
    await until(lambda: upstream.handover().limbo == 0)
    await until(lambda: upstream.handover().path == "shared_memory")
    assert (bench.leased, bench.pinned) == (1, 0)
    assert "calls from before the connection was lost still use it" in told(caplog)[1]


async def test_outputs_of_a_server_that_died_are_free_once_another_is_there(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_SETTLE_S", 0.02)
    monkeypatch.setattr(shared_memory, "LINGER_S", 0.0)
    await lose(server, upstream, call_of(bench, signature=SIGNATURE))
    assert upstream.handover().limbo == 1
    server.forget()
    server.busy = True
    await server.mend()
    await until(lambda: upstream.handover().limbo == 0)
    assert (bench.leased, bench.pinned) == (1, 0)
    server.busy = False


async def test_a_server_that_says_it_is_full_leaves_nothing_in_doubt(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(Fail(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"))
    with pytest.raises(Exception, match="queue"):
        await upstream.infer(call_of(bench, signature=SIGNATURE), Deadline.after(SOON))
    assert (bench.leased, bench.pinned, upstream.handover().limbo) == (1, 0, 0)


async def test_closing_unregisters(server: ScriptedServer, upstream: TritonUpstream, bench: Bench) -> None:
    server.will(says(y=b"1"))
    await upstream.infer(call_of(bench), Deadline.after(SOON))
    assert server.regions
    await upstream.close()
    assert server.regions == set()
    assert upstream.handover().path == "raw"


async def test_closing_waits_for_calls_that_run_on_without_their_callers(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(Hold(), says(y=None))
    with pytest.raises(UpstreamTimeout):
        await upstream.infer(call_of(bench, signature=SIGNATURE), Deadline.after(0.1))
    closing = asyncio.create_task(upstream.close())
    await asyncio.sleep(0)
    server.release()
    await closing
    assert (bench.leased, bench.pinned, server.regions) == (1, 0, set())


async def test_closing_gives_up_on_a_region_that_stays_in_use(
    server: ScriptedServer,
    upstream: TritonUpstream,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shared_memory, "_CLOSE_S", 0.05)
    server.will(says(y=b"1"))
    await upstream.infer(call_of(bench), Deadline.after(SOON))
    server.busy = True
    await asyncio.wait_for(upstream.close(), SOON)
    assert f"keeps region {bench.arena.name}" in told(caplog)[0]


async def test_what_lingers_at_the_close_is_let_go_of(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench
) -> None:
    server.will(Hold())
    with pytest.raises(UpstreamTimeout):
        await upstream.infer(call_of(bench), Deadline.after(0.1))
    assert bench.pinned == 1
    await upstream.close()
    assert bench.pinned == 0


async def test_switched_off_the_server_is_not_even_asked(server: ScriptedServer, bench: Bench) -> None:
    upstream = TritonUpstream(TritonConfig(server.address, shared_memory="off"), bench.arena)
    server.will(says(y=b"1"))
    await upstream.infer(call_of(bench, signature=SIGNATURE), Deadline.after(SOON))
    assert (server.registrations, is_shared(server.seen[-1].request)) == (0, False)
    assert (upstream.handover().path, upstream.handover().reason) == ("raw", "`triton.shared_memory` is off")
    await upstream.close()


async def test_without_an_arena_bytes_are_sent(server: ScriptedServer) -> None:
    upstream = TritonUpstream(TritonConfig(server.address, cancel="always"))
    server.will(says(y=b"1"))
    await upstream.infer(Call("clip", (X,), signature=SIGNATURE), Deadline.after(SOON))
    assert (server.registrations, upstream.handover().reason) == (0, "there is no arena")
    await upstream.close()


async def test_callers_who_leave_at_any_moment_leave_nothing_behind(
    server: ScriptedServer, upstream: TritonUpstream, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "LINGER_S", 0.0)
    call = call_of(bench, signature=SIGNATURE)
    plain = replace(call, signature=None)
    for turn in range(300):
        server.will(says(y=(None, bytes(1))[turn % 2]))
        asking = asyncio.create_task(upstream.infer((call, plain)[turn % 2], Deadline.after(SOON)))
        for _ in range(turn % 20):
            await asyncio.sleep(0)
        asking.cancel()
        for ended in await asyncio.gather(asking, return_exceptions=True):
            for slot in ended.slots if isinstance(ended, Answer) else ():
                slot.release()
    await until(lambda: upstream.handover().detached == 0 and bench.pinned == 0)
    assert bench.leased == 1


@pytest.mark.parametrize(
    ("signature", "shape", "outputs", "expected"),
    [
        (SIGNATURE, (3,), (), {"y": BIG, "z": 1}),
        (SIGNATURE, (3,), ("z", "w"), {"z": 1}),
        (replace(SIGNATURE, max_batch_size=8), (5, 3), (), {"y": 5 * BIG, "z": 5}),
        (replace(SIGNATURE, decoupled=True), (3,), (), {}),
        (replace(SIGNATURE, outputs=(TensorSpec("v", DataType.FP16, (-1, 4)),)), (3,), (), {}),
        (replace(SIGNATURE, outputs=(TensorSpec("s", DataType.FP16, ()),)), (3,), (), {"s": 2}),
        (None, (3,), (), {}),
    ],
)
def test_output_sizes_are_foretold_where_they_are_certain(
    signature: Signature | None, shape: tuple[int, ...], outputs: tuple[str, ...], expected: dict[str, int]
) -> None:
    call = Call("clip", (replace(X, shape=shape),), outputs=outputs, signature=signature)
    assert expected == foretold(call)
