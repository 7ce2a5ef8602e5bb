"""A tensor is written once, by the last step of its transform, and the model server reads it there.

Seen from outside: a relay between the sidecar and Triton counts what really went over the wire.
"""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_client import Client
from sidecar.deadline import Deadline
from sidecar.stages.deliver.upstream import Answer, Call
from testbed.triton import Triton
from tests import corpus
from tests.isolation.inside import CLIP, MIB, PATIENCE_S, Inside, inside, picture
from tests.running import CHECKPOINTS

pytestmark = pytest.mark.triton

# A request that names places: model, shapes, region, offsets, and gRPC's own frames around it.
REQUEST_BYTES = 2048
SIDES = {"0.6 MB": 224, "4.8 MB": 632}


class Relay:
    """Hands bytes on between who connects and an address, and counts those that go there."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self.sent = 0

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool
    ) -> None:
        try:
            while piece := await reader.read(1 << 20):
                self.sent += len(piece) if counts else 0
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, outward = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(
            self._pump(reader, outward, counts=True), self._pump(onward, writer, counts=False)
        )

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Its own address; the loop runs on a thread of its own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="relay")
        thread.start()

        def do(work: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

        server = do(asyncio.start_server(self._join, "127.0.0.1", 0))
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            do(_closed(server))
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _closed(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """CLIP's recipe for pictures of two sizes."""
    found = {}
    for name, side in SIDES.items():
        folder = found[name] = tmp_path_factory.mktemp(f"clip-{side}")
        known = json.loads((CHECKPOINTS / CLIP / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(
            json.dumps(known | {"size": side, "crop_size": side})
        )
    return found


def models(checkpoints: dict[str, Path]) -> list[str]:
    """Both sizes before the testbed's sink, which reads nothing and takes sixteen of any size at once."""
    return [
        setting
        for name, folder in checkpoints.items()
        for setting in (
            f"models.side_{SIDES[name]}.recipe={folder}",
            f"models.side_{SIDES[name]}.upstream=sink",
        )
    ]


@pytest.fixture(scope="module")
def native(triton: Triton) -> Triton:
    """The shared server, where it has the sink."""
    if not sinks(triton):
        pytest.skip("nothing here compiled the testbed's sink")
    return triton


def sinks(triton: Triton) -> bool:
    with inside(None, triton.grpc_address, "models.sink={}", "workers=0") as it:
        return it.catalogue.get("sink").signature is not None


def wired(triton: Triton, checkpoints: dict[str, Path], mode: str) -> Iterator[tuple[Inside, Relay]]:
    relay = Relay(triton.grpc_address)
    with (
        relay.listening() as address,
        inside(
            None,
            address,
            *models(checkpoints),
            "workers=2",
            f"triton.shared_memory='{mode}'",
            "log.level=error",
        ) as it,
    ):
        yield it, relay


@pytest.fixture(scope="module")
def shared(native: Triton, checkpoints: dict[str, Path]) -> Iterator[tuple[Inside, Relay]]:
    yield from wired(native, checkpoints, "auto")


@pytest.fixture(scope="module")
def raw(native: Triton, checkpoints: dict[str, Path]) -> Iterator[tuple[Inside, Relay]]:
    yield from wired(native, checkpoints, "off")


@contextmanager
def overheard(it: Inside) -> Iterator[list[Call]]:
    """The calls that reach the upstream meanwhile; they go on as they are."""
    calls: list[Call] = []
    upstream = it.upstream
    assert upstream is not None
    infer = upstream.infer

    async def noted(call: Call, deadline: Deadline) -> Answer:
        calls.append(call)
        return await infer(call, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "infer", noted)
        yield calls


def ask(it: Inside, side: int, items: int) -> list[int]:
    """How many bytes the sink was given for each of so many pictures in one call."""
    with Client(it.address) as client:
        pictures = [picture(number) for number in range(items)]
        return [int(each.tensor("bytes")[0]) for each in client.infer(f"side_{side}", pictures)]


def address_of(memory: memoryview | bytes) -> int:
    return int(np.frombuffer(memory, np.uint8).__array_interface__["data"][0])


CASES = [(side, items) for side in SIDES.values() for items in (1, 4)]
IDS = [f"{name} x {items}" for name in SIDES for items in (1, 4)]


@pytest.mark.parametrize(("side", "items"), CASES, ids=IDS)
def test_nothing_of_a_tensor_goes_over_the_wire_and_the_model_server_is_told_where_the_workers_wrote_it(
    shared: tuple[Inside, Relay], side: int, items: int
) -> None:
    it, relay = shared
    each = 4 * 3 * side * side
    assert ask(it, side, items) == [each] * items
    before, sent = it.handover, relay.sent
    with overheard(it) as calls:
        assert ask(it, side, items) == [each] * items
    assert relay.sent - sent < REQUEST_BYTES
    assert it.handover.copied_bytes_total == before.copied_bytes_total == 0
    assert it.handover.shared_bytes_total - before.shared_bytes_total == items * each
    # One request, one batch: the rows follow one another where the workers wrote them.
    ((tensor,),) = [call.inputs for call in calls]
    assert tensor.shape == (items, 3, side, side)
    arena = it.arena._segment.memory
    assert tensor.at is not None
    assert address_of(tensor.data) == address_of(arena) + tensor.at
    assert tensor.at + tensor.nbytes <= arena.nbytes
    it.nothing_left()


@pytest.mark.parametrize(("side", "items"), CASES, ids=IDS)
def test_where_places_are_refused_the_tensor_is_copied_once_into_the_request(
    raw: tuple[Inside, Relay], side: int, items: int
) -> None:
    it, relay = raw
    payload = items * 4 * 3 * side * side
    ask(it, side, items)
    before, sent = it.handover, relay.sent
    assert sum(ask(it, side, items)) == payload
    assert it.handover.copied_bytes_total - before.copied_bytes_total == payload
    assert it.handover.shared_bytes_total == 0
    assert payload <= relay.sent - sent < payload * 1.01 + REQUEST_BYTES
    it.nothing_left()


@pytest.mark.parametrize("items", [1, 4])
def test_the_front_process_makes_no_second_copy_of_a_tensor(
    shared: tuple[Inside, Relay], raw: tuple[Inside, Relay], items: int
) -> None:
    """Counted by Python's own allocator, which numpy and bytes go through: the most that was held at once."""
    side = SIDES["4.8 MB"]
    payload = items * 4 * 3 * side * side
    peaks = []
    for it, _ in (shared, raw):
        ask(it, side, items)
        tracemalloc.start()
        try:
            ask(it, side, items)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    by_place, by_bytes = peaks
    assert by_place < MIB
    assert payload < by_bytes < 1.5 * payload


def answers(it: Inside, pictures: Sequence[bytes], seeds: Sequence[int]) -> list[tuple[str, str, bytes]]:
    with Client(it.address) as client:
        told = [
            *client.infer("clip", pictures),
            *client.infer("clip_fp16", pictures),
            *client.infer("clip_uint8", pictures),
            *(client.infer("embeddings", inputs={"seed": seed}) for seed in seeds),
            client.infer("wav2vec2", corpus.audio("mp3_mono_16k.mp3")),
        ]
    return [
        (name, str(tensor.dtype), tensor.tobytes())
        for each in told
        for name, tensor in sorted(each.tensors.items())
        if name != "batch_rows"
    ]


def test_both_paths_give_the_same_answers_to_the_bit(triton: Triton) -> None:
    """Inputs of three element types and of a sound; outputs of 256 and 512 KiB, which go by place too."""
    pictures = [corpus.image(name) for name in corpus.PICTURES]
    names = {"clip": CLIP, "clip_fp16": CLIP, "clip_uint8": CLIP, "wav2vec2": "wav2vec2-base-960h"}
    upstreams = (
        "models.clip.upstream=checksum_fp32",
        "models.clip_fp16.upstream=checksum_fp16",
        "models.clip_uint8.upstream=checksum_uint8",
        "models.wav2vec2.upstream=checksum_audio",
        "models.embeddings={}",
    )
    found = []
    for mode in ("auto", "off"):
        settings = (*upstreams, "workers=2", f"triton.shared_memory='{mode}'", "log.level=error")
        with inside(names, triton.grpc_address, *settings) as it:
            found.append(answers(it, pictures, [1, 77, 30_000]))
            handover = it.handover
            it.nothing_left()
        if mode == "auto":
            assert (handover.path, handover.raw_calls_total) == ("shared_memory", 0)
        else:
            assert (handover.path, handover.shared_calls_total) == ("raw", 0)
    assert found[0] == found[1]
