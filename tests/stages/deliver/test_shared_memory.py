"""Hand-over by shared memory to the real Triton: the same answers as by bytes, restarts, departed callers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from sidecar.deadline import Deadline
from sidecar.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from sidecar.media import DataType, Tensor
from sidecar.stages.deliver import shared_memory
from sidecar.stages.deliver.elements import encode
from sidecar.stages.deliver.triton import TritonConfig, TritonUpstream
from sidecar.stages.deliver.upstream import Answer, Call, Signature
from testbed.triton import Triton, TritonFailed
from tests.stages.deliver.conftest import Bench

pytestmark = pytest.mark.triton

SOON = 20.0
SIDE = 224
Array = np.ndarray[Any, Any]


@pytest.fixture
def local(triton: Triton) -> Triton:
    """The shared server, where it can see this machine's memory."""
    try:
        assert triton.pid
    except TritonFailed:
        pytest.skip("a Triton elsewhere may not see this machine's /dev/shm")
    return triton


@pytest.fixture
async def upstream(local: Triton, bench: Bench) -> AsyncIterator[TritonUpstream]:
    made = TritonUpstream(TritonConfig(local.grpc_address), bench.arena)
    yield made
    await made.close()


@pytest.fixture
def mortal(local: Triton) -> Iterator[Triton]:
    """A server that the test may kill."""
    assert local.pid
    with Triton.start(models=("embeddings", "streamer")) as own:
        yield own


def dense(name: str, array: Array, data_type: DataType) -> Tensor:
    return Tensor(name, data_type, array.shape, np.ascontiguousarray(array).tobytes())


def words(name: str, *values: bytes) -> Tensor:
    return Tensor(name, DataType.BYTES, (len(values), 1), encode(values))


def noise(*shape: int) -> Array:
    return np.random.default_rng(3).uniform(0, 255, shape)


def seeds(*values: int, **plain: int) -> tuple[Tensor, ...]:
    column = np.array(values, np.int32)[:, None]
    return tuple(
        dense(name, np.full_like(column, value) if name != "seed" else column, DataType.INT32)
        for name, value in {"seed": 0, **plain}.items()
    )


def as_array(tensor: Tensor) -> Array:
    return np.frombuffer(tensor.data, tensor.data_type.storage).reshape(tensor.shape)


def contents(answer: Answer) -> list[tuple[str, DataType, tuple[int, ...], bytes]]:
    return [(one.name, one.data_type, one.shape, bytes(one.data)) for one in answer.outputs]


def release(answer: Answer) -> None:
    for slot in answer.slots:
        slot.release()


async def until(holds: Callable[[], bool]) -> None:
    """Waits until that holds, for as long as a loaded machine may take."""
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


PIXELS = noise(3, 3, SIDE, SIDE)
CASES: list[tuple[str, tuple[Tensor, ...]]] = [
    ("checksum_fp32", (dense("pixel_values", PIXELS.astype("<f4"), DataType.FP32),)),
    ("checksum_fp16", (dense("pixel_values", PIXELS.astype("<f2"), DataType.FP16),)),
    ("checksum_uint8", (dense("pixel_values", PIXELS.astype("u1"), DataType.UINT8),)),
    ("checksum_audio", (dense("input_values", noise(2, 16001).astype("<f4"), DataType.FP32),)),
    ("sink", (dense("pixel_values", noise(16, 1, 1, 4).astype("<f4"), DataType.FP32),)),
    (
        "checksum_prompted",
        (
            words("prompt", b"was", b"", b"das?"),
            dense("pixel_values", PIXELS.astype("<f4"), DataType.FP32),
            dense("ids", np.arange(6).reshape(3, 2), DataType.INT64),
        ),
    ),
    (
        "embeddings",
        (
            *seeds(1, 200, 30000),
            dense("values", noise(3, 70000).astype("<f2"), DataType.FP16),
            words("word", b"eins", b"zwei", b""),
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[model for model, _ in CASES])
@pytest.mark.parametrize("which", ["all", "first", "last"])
async def test_both_paths_give_identical_answers(
    local: Triton,
    upstream: TritonUpstream,
    bench: Bench,
    case: tuple[str, tuple[Tensor, ...]],
    which: str,
) -> None:
    model, inputs = case
    by_bytes = TritonUpstream(TritonConfig(local.grpc_address))
    signature = await by_bytes.describe(model, "", Deadline.after(SOON))
    expected = await by_bytes.infer(Call(model, inputs, signature=signature), Deadline.after(SOON))
    await by_bytes.close()
    there = slice(None) if which == "all" else slice(0, 1) if which == "first" else slice(-1, None)
    mixed = list(inputs)
    mixed[there] = bench.put(inputs[there])
    call = Call(model, tuple(mixed), slots=tuple(bench.leases), signature=signature)
    answer = await upstream.infer(call, Deadline.after(SOON))
    assert contents(expected) == contents(answer)
    found = upstream.handover()
    assert found.path == "shared_memory"
    assert found.copied_bytes_total == sum(one.nbytes for one in mixed if one.at is None)
    release(answer)


async def test_no_byte_of_a_tensor_in_the_arena_is_copied_into_a_message(
    upstream: TritonUpstream, bench: Bench
) -> None:
    inputs = bench.put([dense("pixel_values", PIXELS.astype("<f4"), DataType.FP32)])
    call = Call("checksum_fp32", inputs, slots=tuple(bench.leases))
    for _ in range(10):
        await upstream.infer(call, Deadline.after(SOON))
    found = upstream.handover()
    assert (found.shared_bytes_total, found.copied_bytes_total) == (10 * PIXELS.size * 4, 0)
    assert (found.shared_calls_total, found.raw_calls_total) == (10, 0)


async def test_large_outputs_are_views_of_slots_and_small_ones_are_not(
    upstream: TritonUpstream, bench: Bench
) -> None:
    signature = await upstream.describe("embeddings", "", Deadline.after(SOON))
    call = Call("embeddings", seeds(7, 300), outputs=("mask", "sum", "embedding"), signature=signature)
    answer = await upstream.infer(call, Deadline.after(SOON))
    mask, total, embedding = answer.outputs
    assert (mask.at, total.at, embedding.at) == (answer.slots[0].offset, None, answer.slots[1].offset)
    assert (bench.leased, bench.pinned) == (2, 0)
    assert as_array(mask)[:, 0].tolist() == [7, 300 - 256]
    expected = (np.arange(512 * 512).reshape(512, 512) + 300) % 1024
    np.testing.assert_array_equal(expected, as_array(embedding)[1])
    release(answer)
    assert bench.leased == 0


@pytest.mark.parametrize("tokens", [600, 100])
async def test_a_model_whose_outputs_are_not_as_declared_is_answered_all_the_same(
    upstream: TritonUpstream, bench: Bench, tokens: int
) -> None:
    signature = await upstream.describe("embeddings", "", Deadline.after(SOON))
    call = Call("embeddings", seeds(5, tokens=tokens), outputs=("embedding",), signature=signature)
    for _ in range(2):
        answer = await upstream.infer(call, Deadline.after(SOON))
        (embedding,) = answer.outputs
        assert embedding.shape == (1, tokens, 512)
        expected = (np.arange(tokens * 512).reshape(1, tokens, 512) + 5) % 1024
        np.testing.assert_array_equal(expected, as_array(embedding))
        assert len(answer.slots) == (1 if tokens < 512 else 0)
        release(answer)
    assert bench.leased == 0


async def slow(upstream: TritonUpstream) -> Call:
    """A call of 400 ms with outputs in slots."""
    signature = await upstream.describe("embeddings", "", Deadline.after(SOON))
    return Call("embeddings", seeds(5, delay_ms=400), outputs=("embedding",), signature=signature)


async def test_a_slot_is_nobody_else_s_until_the_model_whose_caller_left_has_written_to_it(
    upstream: TritonUpstream, bench: Bench
) -> None:
    call = await slow(upstream)
    asking = asyncio.create_task(upstream.infer(call, Deadline.after(SOON)))
    await until(lambda: bench.pinned == 1)
    (written,) = bench.arena._books._live.values()
    view = written.view
    view[:] = bytes(len(view))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bench.pinned == 1
    await until(lambda: upstream.handover().detached == 0)
    assert any(view), "the model did write to it"
    assert bench.leased == 0


async def test_a_deadline_is_kept_while_the_model_goes_on(upstream: TritonUpstream, bench: Bench) -> None:
    call = await slow(upstream)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(UpstreamTimeout):
        await upstream.infer(call, Deadline.after(0.05))
    assert asyncio.get_running_loop().time() - begun < 0.35
    assert (bench.pinned, upstream.handover().detached) == (1, 1)
    await until(lambda: upstream.handover().detached == 0)
    assert bench.leased == 0


async def test_inputs_of_a_caller_who_left_are_free_a_while_later(
    upstream: TritonUpstream, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "LINGER_S", 0.2)
    inputs = bench.put(seeds(5, delay_ms=300))
    call = Call("embeddings", inputs, slots=tuple(bench.leases))
    await upstream.infer(replace(call, inputs=inputs[:1]), Deadline.after(SOON))
    with pytest.raises(UpstreamTimeout):
        await upstream.infer(call, Deadline.after(0.05))
    assert bench.pinned == 2
    await until(lambda: bench.pinned == 0)


async def test_a_stream_reads_its_inputs_from_the_arena(upstream: TritonUpstream, bench: Bench) -> None:
    count = dense("count", np.array([3], np.int32), DataType.INT32)
    pixels = bench.put([dense("pixel_values", PIXELS[:1].astype("<f4"), DataType.FP32)])
    call = Call("streamer", (*pixels, count), outputs=("index",), slots=tuple(bench.leases))
    found = [as_array(one.outputs[0])[0] async for one in upstream.stream(call, Deadline.after(SOON))]
    assert found == [0, 1, 2]
    assert (bench.pinned, upstream.handover().copied_bytes_total) == (0, 4)


async def test_a_restarted_triton_is_told_again_and_nobody_notices(mortal: Triton, bench: Bench) -> None:
    upstream = TritonUpstream(TritonConfig(mortal.grpc_address), bench.arena)
    signature = await upstream.describe("embeddings", "", Deadline.after(SOON))
    inputs = bench.put(seeds(9))
    call = Call("embeddings", inputs, slots=tuple(bench.leases), signature=signature)
    before = await upstream.infer(call, Deadline.after(SOON))
    expected = contents(before)
    release(before)
    await asyncio.to_thread(mortal.restart)
    after = await first_answer(upstream, call)
    assert expected == contents(after)
    assert len(after.slots) == 2
    release(after)
    assert upstream.handover().registrations_total == 2
    count = bench.put([dense("count", np.array([2], np.int32), DataType.INT32)])
    pixels = bench.put([dense("pixel_values", PIXELS[:1].astype("<f4"), DataType.FP32)])
    streaming = Call("streamer", (*pixels, *count), slots=tuple(bench.leases))
    await forget(mortal, bench)
    assert len([answer async for answer in upstream.stream(streaming, Deadline.after(SOON))]) == 2
    assert upstream.handover().registrations_total == 3
    await upstream.close()


async def first_answer(upstream: TritonUpstream, call: Call) -> Answer:
    """Asks until the connection is there again."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await upstream.infer(call, Deadline.after(SOON))
            except UpstreamUnavailable:
                await asyncio.sleep(0.05)


async def forget(server: Triton, bench: Bench) -> None:
    """Another client tells the server to let go of the region."""
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        await asyncio.to_thread(client.unregister_system_shared_memory, bench.arena.name)


async def test_slots_of_a_triton_that_died_are_free_once_it_is_back(
    mortal: Triton, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_SETTLE_S", 0.05)
    upstream = TritonUpstream(TritonConfig(mortal.grpc_address), bench.arena)
    call = await slow(upstream)
    asking = [asyncio.create_task(upstream.infer(call, Deadline.after(SOON))) for _ in range(3)]
    await until(lambda: bench.pinned == 3)
    mortal.kill()
    for ended in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(ended, UpstreamError)
    assert (bench.pinned, upstream.handover().limbo) == (3, 3)
    await asyncio.to_thread(mortal.restart)
    await until(lambda: upstream.handover().limbo == 0)
    assert bench.leased == 0
    release(await first_answer(upstream, call))
    await upstream.close()


def regions(server: Triton) -> list[str]:
    """Those of this file's arenas: sidecars of other tests use the same server."""
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        found = client.get_system_shared_memory_status().regions
    return sorted(name for name in found if name.startswith("test-deliver-"))


async def test_two_sidecars_share_a_triton_and_each_takes_its_region_along(
    local: Triton, upstream: TritonUpstream, bench: Bench
) -> None:
    other_bench = Bench()
    other = TritonUpstream(TritonConfig(local.grpc_address), other_bench.arena)
    signature: Signature = await upstream.describe("embeddings", "", Deadline.after(SOON))
    await other.describe("embeddings", "", Deadline.after(SOON))
    assert regions(local) == sorted([bench.arena.name, other_bench.arena.name])
    answers = await asyncio.gather(
        *(
            side.infer(Call("embeddings", seeds(seed), signature=signature), Deadline.after(SOON))
            for seed, side in ((11, upstream), (12, other))
        )
    )
    assert [int(as_array(answer.outputs[0]).ravel()[0]) for answer in answers] == [11, 12]
    for answer in answers:
        release(answer)
    await other.close()
    other_bench.arena.close()
    assert regions(local) == [bench.arena.name]
    await upstream.close()
    assert regions(local) == []


async def test_what_a_killed_predecessor_registered_is_taken_from_triton(local: Triton, bench: Bench) -> None:
    left = Bench()
    with grpcclient.InferenceServerClient(local.grpc_address) as client:
        client.register_system_shared_memory(left.arena.name, f"/{left.arena.name}", left.arena.size)
    bench.arena.predecessors = (left.arena.name, "never-registered")
    upstream = TritonUpstream(TritonConfig(local.grpc_address), bench.arena)
    await upstream.describe("embeddings", "", Deadline.after(SOON))
    assert regions(local) == [bench.arena.name]
    await upstream.close()
    left.arena.close()
