"""TritonUpstream against the real Triton: what is described, sent, answered, streamed and refused."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from sidecar.deadline import Deadline
from sidecar.errors import (
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnimplemented,
)
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.stages.deliver.batching import Row, batches, rows_of
from sidecar.stages.deliver.bindings import Grouping, bind
from sidecar.stages.deliver.elements import decode, encode
from sidecar.stages.deliver.inputs import check_inputs
from sidecar.stages.deliver.triton import TritonConfig, TritonUpstream
from sidecar.stages.deliver.upstream import Call
from testbed.checksum import checksum, crc32
from testbed.triton import Triton, TritonFailed

pytestmark = pytest.mark.triton

SIDE = 224
PIXELS = TensorSpec("pixel_values", DataType.FP32, (3, SIDE, SIDE))
NUMPY = {DataType.FP32: np.float32, DataType.FP16: np.float16, DataType.UINT8: np.uint8}
SOON = 20.0


@pytest.fixture
async def upstream(triton: Triton) -> AsyncIterator[TritonUpstream]:
    made = TritonUpstream(TritonConfig(triton.grpc_address))
    yield made
    await made.close()


def picture(seed: int, data_type: DataType = DataType.FP32) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(seed).integers(0, 255, (3, SIDE, SIDE))
    return values.astype(NUMPY[data_type])


def row(array: np.ndarray[Any, Any], data_type: DataType = DataType.FP32) -> Row:
    return (Tensor("pixel_values", data_type, array.shape, array.data.cast("B")),)


def as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.frombuffer(tensor.data, tensor.data_type.storage).reshape(tensor.shape)


def one(name: str, value: int) -> Tensor:
    return Tensor(name, DataType.INT32, (1,), value.to_bytes(4, "little"))


def tokens(count: int, delay_ms: int = 0) -> Call:
    (pixels,) = row(picture(0)[None])
    return Call("streamer", (pixels, one("count", count), one("delay_ms", delay_ms)))


def accepts(_: str, data_type: DataType) -> bool:
    return data_type in NUMPY


async def test_a_batching_model_is_described_without_its_batch_axis(upstream: TritonUpstream) -> None:
    found = await upstream.describe("checksum_prompted", "", Deadline.after(SOON))
    assert found.inputs == (
        TensorSpec("pixel_values", DataType.FP32, (3, SIDE, SIDE)),
        TensorSpec("prompt", DataType.BYTES, (1,)),
        TensorSpec("scale", DataType.FP32, (1,), optional=True),
        TensorSpec("ids", DataType.INT64, (-1,)),
    )
    assert (found.model, found.version, found.max_batch_size, found.decoupled) == (
        "checksum_prompted",
        "1",
        8,
        False,
    )


async def test_a_decoupled_model_is_described_as_such(upstream: TritonUpstream) -> None:
    found = await upstream.describe("streamer", "1", Deadline.after(SOON))
    assert found.decoupled
    assert (found.max_batch_size, found.inputs[0].shape) == (0, (1, 3, SIDE, SIDE))


@pytest.mark.parametrize(("name", "version"), [("no_such_model", ""), ("echo", "7")])
async def test_a_model_that_is_not_there_is_told_as_missing(
    upstream: TritonUpstream, name: str, version: str
) -> None:
    with pytest.raises(UpstreamModelMissing, match=name):
        await upstream.describe(name, version, Deadline.after(SOON))
    call = Call(name, (Tensor("x", DataType.FP32, (1,), bytes(4)),), version=version)
    with pytest.raises(UpstreamModelMissing, match=name):
        await upstream.infer(call, Deadline.after(SOON))
    with pytest.raises(UpstreamModelMissing, match=name):
        await anext(upstream.stream(call, Deadline.after(SOON)))


@pytest.mark.parametrize(
    ("model", "data_type"),
    [
        ("checksum_fp32", DataType.FP32),
        ("checksum_fp16", DataType.FP16),
        ("checksum_uint8", DataType.UINT8),
    ],
)
async def test_items_reach_the_model_to_the_byte_and_their_answers_come_back_in_order(
    upstream: TritonUpstream, model: str, data_type: DataType
) -> None:
    binding = bind([PIXELS], accepts, await upstream.describe(model, "", Deadline.after(SOON)))
    pictures = [picture(seed, data_type) for seed in range(5)]
    (batch,) = batches(binding, [row(array, data_type) for array in pictures], [])
    assert batch.inputs[0].shape == (5, 3, SIDE, SIDE)
    answer = await upstream.infer(Call(model, batch.inputs, outputs=("crc32",)), Deadline.after(SOON))
    rows = rows_of(binding, batch, answer)
    assert [crc32(array) for array in pictures] == [int(as_array(found)[0]) for (found,) in rows]


async def test_all_items_go_to_the_model_together(upstream: TritonUpstream) -> None:
    signature = await upstream.describe("checksum_together", "", Deadline.after(SOON))
    binding = bind([PIXELS], accepts, signature)
    assert binding.grouping is Grouping.TOGETHER
    pictures = [picture(seed) for seed in range(3)]
    (batch,) = batches(binding, [row(array) for array in pictures], [])
    answer = await upstream.infer(
        Call(signature.model, batch.inputs, outputs=("crc32", "images")), Deadline.after(SOON)
    )
    ((sums, images),) = rows_of(binding, batch, answer)
    assert int(as_array(sums)[0]) == crc32(np.stack(pictures))
    assert int(as_array(images)[0]) == 3


async def test_plain_inputs_go_along_with_every_item(upstream: TritonUpstream) -> None:
    binding = bind([PIXELS], accepts, await upstream.describe("checksum_prompted", "", Deadline.after(SOON)))
    ids = np.arange(5, dtype=np.int64)
    plain = check_inputs(
        [
            Tensor("ids", DataType.INT64, ids.shape, ids.tobytes()),
            Tensor("prompt", DataType.BYTES, (1,), encode([b"was ist das?"])),
            Tensor("scale", DataType.FP32, (1,), np.float32(2).tobytes()),
        ],
        binding.plain,
        binding.made,
    )
    pictures = [picture(seed) for seed in range(2)]
    (batch,) = batches(binding, [row(array) for array in pictures], plain)
    answer = await upstream.infer(Call("checksum_prompted", batch.inputs), Deadline.after(SOON))
    for array, outputs in zip(pictures, rows_of(binding, batch, answer), strict=True):
        named = {found.name: found for found in outputs}
        np.testing.assert_allclose(as_array(named["checksum"]), 2 * np.array(checksum(array)))
        assert decode(named["echo"]) == [b"was ist das?"]
        assert int(as_array(named["ids_sum"])[0]) == 10


async def test_a_model_without_media_gives_back_what_it_got(upstream: TritonUpstream) -> None:
    numbers = np.array([1.5, -2.5], np.float32)
    inputs = (
        Tensor("text", DataType.BYTES, (3,), encode([b"", b"two", bytes(range(256))])),
        Tensor("numbers", DataType.FP32, (2,), numbers.tobytes()),
    )
    call = Call("echo", inputs, outputs=("text", "numbers"), request_id="r", parameters={"max_tokens": 3})
    answer = await upstream.infer(call, Deadline.after(SOON))
    assert answer.outputs == inputs
    assert (answer.model, answer.version) == ("echo", "1")


async def test_an_ordinary_model_answers_a_stream_once(upstream: TritonUpstream) -> None:
    inputs = (
        Tensor("text", DataType.BYTES, (1,), encode([b"hello"])),
        Tensor("numbers", DataType.FP32, (0,), b""),
    )
    answers = [answer async for answer in upstream.stream(Call("echo", inputs), Deadline.after(SOON))]
    assert [{found.name for found in answer.outputs} for answer in answers] == [{"text", "numbers"}]


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_a_decoupled_model_streams_its_answers_and_ends(upstream: TritonUpstream, count: int) -> None:
    found = [
        int(as_array(answer.outputs[0])[0])
        async for answer in upstream.stream(
            Call("streamer", tokens(count).inputs, outputs=("index",)), Deadline.after(SOON)
        )
    ]
    assert list(range(count)) == found


async def test_tokens_come_as_they_are_made(upstream: TritonUpstream) -> None:
    begun, first = time.monotonic(), None
    async for _ in upstream.stream(tokens(5, delay_ms=100), Deadline.after(SOON)):
        first = first or time.monotonic() - begun
    assert first is not None
    assert first < (time.monotonic() - begun) / 2


async def test_a_decoupled_model_cannot_be_asked_once(upstream: TritonUpstream) -> None:
    with pytest.raises(UpstreamUnimplemented, match="decoupled"):
        await upstream.infer(tokens(1), Deadline.after(SOON))


async def test_a_failing_model_is_told_with_its_own_words(upstream: TritonUpstream) -> None:
    call = Call("failing", row(picture(0)[None]))
    with pytest.raises(UpstreamFailed, match="this model always fails"):
        await upstream.infer(call, Deadline.after(SOON))
    with pytest.raises(UpstreamFailed, match="this model always fails"):
        await anext(upstream.stream(call, Deadline.after(SOON)))


REFUSED: list[tuple[str, tuple[Tensor, ...], tuple[str, ...]]] = [
    ("shape", row(np.zeros((1, 4, SIDE, SIDE), np.float32)), ()),
    ("type", row(np.zeros((1, 3, SIDE, SIDE), np.uint8), DataType.UINT8), ()),
    ("length", (Tensor("pixel_values", DataType.FP32, (1, 3, SIDE, SIDE), bytes(12)),), ()),
    ("unknown input", (Tensor("nonsense", DataType.FP32, (1,), bytes(4)),), ()),
    ("no input", (), ()),
    ("unknown output", row(picture(0)[None]), ("nonsense",)),
]


@pytest.mark.parametrize(
    ("inputs", "outputs"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_an_invalid_request_is_refused_alike_in_both_kinds_of_call(
    upstream: TritonUpstream, inputs: tuple[Tensor, ...], outputs: tuple[str, ...]
) -> None:
    call = Call("checksum_fp32", inputs, outputs=outputs)
    with pytest.raises(UpstreamRejected):
        await upstream.infer(call, Deadline.after(SOON))
    with pytest.raises(UpstreamRejected):
        await anext(upstream.stream(call, Deadline.after(SOON)))


async def test_a_deadline_ends_a_slow_stream_and_the_server_serves_on(upstream: TritonUpstream) -> None:
    begun = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        async for _ in upstream.stream(tokens(1000, delay_ms=20), Deadline.after(0.3)):
            pass
    assert time.monotonic() - begun < 2
    assert [answer async for answer in upstream.stream(tokens(1), Deadline.after(SOON))]


async def test_a_deadline_ends_a_slow_inference(upstream: TritonUpstream) -> None:
    # 16 rows take the accelerator 26 ms.
    call = Call("accelerator", row(np.zeros((16, 3, SIDE, SIDE), np.float32)))
    with pytest.raises(UpstreamTimeout):
        await upstream.infer(call, Deadline.after(0.015))


async def test_closed_and_cancelled_streams_leave_the_server_alive(upstream: TritonUpstream) -> None:
    for _ in range(20):
        async with aclosing(upstream.stream(tokens(1000, delay_ms=5), Deadline.after(SOON))) as stream:
            await anext(stream)
        task = asyncio.create_task(anext(upstream.stream(tokens(1000, delay_ms=5), Deadline.after(SOON))))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len([answer async for answer in upstream.stream(tokens(3), Deadline.after(SOON))]) == 3


async def test_a_server_that_dies_mid_request_is_told_and_used_again_once_it_is_back(triton: Triton) -> None:
    try:
        assert triton.pid
    except TritonFailed:
        pytest.skip("the server is another's; there is none here to kill")
    with await asyncio.to_thread(Triton.start, models=("accelerator",)) as own:
        upstream = TritonUpstream(TritonConfig(own.grpc_address))
        # 8 executions of 26 ms each: when the first is answered, the others keep the server busy.
        call = Call("accelerator", row(np.zeros((16, 3, SIDE, SIDE), np.float32)))
        under_way = [asyncio.create_task(upstream.infer(call, Deadline.after(SOON))) for _ in range(8)]
        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        own.kill()
        ended = await asyncio.gather(*under_way, return_exceptions=True)
        assert {type(end) for end in ended if isinstance(end, BaseException)} == {UpstreamUnavailable}
        with pytest.raises(UpstreamUnavailable):
            await upstream.infer(call, Deadline.after(SOON))
        await asyncio.to_thread(own.restart)
        # The longest pause between two attempts to connect is half a second and some jitter.
        await asyncio.sleep(0.7)
        assert (await upstream.infer(call, Deadline.after(SOON))).model == "accelerator"
        await upstream.close()


async def test_what_the_server_counted_grows_by_what_was_answered(upstream: TritonUpstream) -> None:
    before = await upstream.counters("accelerator", "", Deadline.after(SOON))
    for rows in (1, 2):
        call = Call("accelerator", row(np.zeros((rows, 3, SIDE, SIDE), np.float32)))
        await upstream.infer(call, Deadline.after(SOON))
    after = await upstream.counters("accelerator", "", Deadline.after(SOON))
    assert (after.requests - before.requests, after.rows - before.rows) == (2, 3)
    assert after.executions - before.executions == 2
    # 10 ms an execution and 1 ms a row.
    assert after.compute_ns - before.compute_ns >= 23e6
    grown = {size: count - before.batches.get(size, (0, 0))[0] for size, (count, _) in after.batches.items()}
    assert (grown[1], grown[2]) == (1, 1)
    assert before.at_ns < after.at_ns
    assert 0 < after.rtt_ns < SOON * 1e9


async def test_a_model_that_is_not_there_counts_nothing(upstream: TritonUpstream) -> None:
    with pytest.raises((UpstreamModelMissing, UpstreamRejected)):
        await upstream.counters("nobody", "", Deadline.after(SOON))


async def test_a_signature_tells_how_batches_are_made(upstream: TritonUpstream) -> None:
    signature = await upstream.describe("accelerator", "", Deadline.after(SOON))
    assert (signature.batch_delay_us, signature.instances) == (0, 1)
