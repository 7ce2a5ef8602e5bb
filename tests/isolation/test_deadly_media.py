"""Media that kills or hangs workers: its sender is told, its content is refused, and nobody else notices.

Over every RPC that brings media, whole and in pieces.
"""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc
from PIL import Image

from sidecar import catalogue
from sidecar.recipes.loader import load_recipe
from testbed import faulty
from testbed.triton import Triton
from tests.isolation.deadly import Deadly
from tests.isolation.inside import CLIP, Inside, eventually, inside, picture

pytestmark = pytest.mark.triton

MODELS = {"clip": CLIP}
SETTINGS = ("models.clip.upstream=checksum_fp32", "workers=2", "threads.image=4", "log.level=error")
LEASE_S = 0.5
PATIENCE_S = 60.0

pb = preprocessor_pb2


@contextmanager
def deadly(triton: str, *overrides: str) -> Iterator[Inside]:
    """A sidecar whose recipe can be killed by media: the catalogue reads it as ever, and gets it wrapped."""

    def load(*arguments: Any, **options: Any) -> Deadly:
        return Deadly(load_recipe(*arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "load_recipe", load)
        with inside(MODELS, triton, *SETTINGS, *overrides) as it:
            yield it


def deadly_picture(how: int, number: int) -> bytes:
    """A picture that does `how` to its worker; another for every number."""
    pixels = np.full((48, 64, 3), (how, number % 256, number // 256), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def inline(kind: Any, pictures: Sequence[bytes], *, all_or_nothing: bool) -> Any:
    media = [media_pb2.Media(inline=each) for each in pictures]
    return kind(model="clip", media=media, all_or_nothing=all_or_nothing)


async def parts(
    part: Any, kind: Any, pictures: Sequence[bytes], *, all_or_nothing: bool
) -> AsyncIterator[Any]:
    """The messages of an upload, every picture in two chunks."""
    media = [media_pb2.Media(chunked=media_pb2.Chunked()) for _ in pictures]
    yield part(request=kind(model="clip", media=media, all_or_nothing=all_or_nothing))
    for index, each in enumerate(pictures):
        half = len(each) // 2
        yield part(chunk=media_pb2.Chunk(media_index=index, data=each[:half]))
        yield part(chunk=media_pb2.Chunk(media_index=index, data=each[half:]))


class Verb:
    """An RPC: how it is asked for pictures, and which reasons it gives for each ("": answered)."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._ask = getattr(preprocessor_pb2_grpc.PreprocessorStub(channel), name)
        self._streams = "Stream" in name
        self._upload = name.endswith("Upload")
        preprocess = name.startswith("Preprocess")
        self._kind = pb.PreprocessRequest if preprocess else pb.InferRequest
        self._part = pb.PreprocessUploadRequest if preprocess else pb.InferUploadRequest

    async def __call__(self, *pictures: bytes, all_or_nothing: bool = False) -> list[str]:
        if self._upload:
            request = parts(self._part, self._kind, pictures, all_or_nothing=all_or_nothing)
        else:
            request = inline(self._kind, pictures, all_or_nothing=all_or_nothing)
        call = self._ask(request, timeout=PATIENCE_S)
        if not self._streams:
            return [item.problem.reason for item in (await call).items]
        events = [event async for event in call]
        assert [event.WhichOneof("event") for event in events] == ["prepared", "outputs", "finished"]
        return [item.problem.reason for item in events[0].prepared.items]


VERBS = ["Preprocess", "Infer", "InferStream", "PreprocessUpload", "InferUpload", "InferStreamUpload"]
UNARY = [name for name in VERBS if "Stream" not in name]
# A hang takes two leases to find, so most of them are left to the long run.
CASES = [
    *((name, faulty.SEGFAULT) for name in VERBS),
    ("Infer", faulty.HANGS),
    *(pytest.param(name, faulty.HANGS, marks=pytest.mark.full) for name in VERBS if name != "Infer"),
]
UNARY_CASES = [
    *((name, faulty.KILLED) for name in UNARY),
    ("Infer", faulty.HANGS_HOLDING_THE_LOCK),
    *(
        pytest.param(name, faulty.HANGS_HOLDING_THE_LOCK, marks=pytest.mark.full)
        for name in UNARY
        if name != "Infer"
    ),
]


@pytest.fixture(scope="module")
def server(triton: Triton) -> Iterator[Inside]:
    with deadly(triton.grpc_address, f"workers.lease_s={LEASE_S}") as it:
        yield it


@asynccontextmanager
async def asking(server: Inside, name: str) -> AsyncIterator[Verb]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Verb(channel, name)


async def refused(asked: Awaitable[object]) -> tuple[grpc.StatusCode, str, Mapping[str, str], str]:
    """The status, reason, facts and words that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asked
    status = rpc_status.from_call(failed.value)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return failed.value.code(), info.reason, info.metadata, str(failed.value.details())


fresh = itertools.count().__next__
"""A number that no picture of this run had: contents stay in quarantine."""


@asynccontextmanager
async def neighbours(server: Inside) -> AsyncIterator[None]:
    """Other callers, who must be answered all the while, and as ever."""
    stop = asyncio.Event()
    answered = 0
    async with grpc.aio.insecure_channel(server.address) as channel:
        ask = Verb(channel, "Infer")

        async def call(first: int) -> None:
            nonlocal answered
            for number in itertools.count(first):
                if stop.is_set():
                    return
                assert await ask(picture(number % 32)) == [""]
                answered += 1

        callers = [asyncio.create_task(call(first)) for first in range(4)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*callers)
    assert answered >= len(callers)


@pytest.mark.parametrize(("name", "how"), CASES)
async def test_deadly_media_is_its_senders_fault_once_it_has_ended_two_workers_and_refused_at_the_door_then(
    server: Inside, name: str, how: int
) -> None:
    bad, before = deadly_picture(how, fresh()), server.crew
    async with asking(server, name) as ask:
        async with neighbours(server):
            code, reason, facts, words = await refused(ask(bad, all_or_nothing=True))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CORRUPT_MEDIA")
        assert facts["item"] == "0"
        assert facts["retryable"] == "false"
        assert "ended or hung the process that decoded it, twice" in words
        killed = server.crew
        assert killed.deaths_total - before.deaths_total == 2
        assert killed.poisoned_total - before.poisoned_total == 1
        assert killed.hangs_total - before.hangs_total == (2 if how == faulty.HANGS else 0)
        code, reason, _, words = await refused(ask(bad, all_or_nothing=True))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CORRUPT_MEDIA")
        assert "refused for the next" in words
        assert server.crew.deaths_total == killed.deaths_total
        assert await ask(picture(fresh())) == [""]
    server.pids(2)
    server.nothing_left()


@pytest.mark.parametrize(("name", "how"), UNARY_CASES)
async def test_the_neighbours_of_a_deadly_item_in_its_own_call_are_answered(
    server: Inside, name: str, how: int
) -> None:
    bad = deadly_picture(how, fresh())
    items = [picture(1), picture(2), bad, picture(3), picture(4)]
    async with asking(server, name) as ask:
        for _ in range(2):
            assert await ask(*items) == ["", "", "CORRUPT_MEDIA", "", ""]
        assert await ask(*items[:2]) == ["", ""]
    server.pids(2)
    server.nothing_left()


async def test_many_deadly_items_in_one_call_are_each_found_and_the_others_are_answered(
    server: Inside,
) -> None:
    hows = [faulty.GOOD, faulty.EXITS, faulty.SEGFAULT, faulty.GOOD, faulty.KILLED, faulty.GOOD]
    items = [deadly_picture(how, fresh()) for how in hows]
    async with asking(server, "Infer") as ask, neighbours(server):
        assert await ask(*items) == ["" if how == faulty.GOOD else "CORRUPT_MEDIA" for how in hows]
    server.pids(2)
    server.nothing_left()


async def test_media_that_was_refused_may_try_again_when_its_time_is_over(triton: Triton) -> None:
    with deadly(triton.grpc_address, "workers.quarantine_s=0") as it:
        bad = deadly_picture(faulty.SEGFAULT, 1)
        async with asking(it, "Preprocess") as ask:
            for time in range(1, 3):
                assert await ask(bad) == ["CORRUPT_MEDIA"]
                assert it.crew.deaths_total == 2 * time
        it.nothing_left()


async def test_a_sender_of_deadly_media_who_leaves_costs_one_worker_and_no_other_call(server: Inside) -> None:
    before = server.crew
    async with asking(server, "Infer") as ask, neighbours(server):
        call = asyncio.create_task(ask(deadly_picture(faulty.HANGS, fresh())))
        await eventually(lambda: server.crew.hangs_total > before.hangs_total or call.done())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    server.pids(2)
    server.nothing_left()
