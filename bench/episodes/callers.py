"""Callers who keep time: closed loops of calls, each noted from its sending to its answer. Fast, slow, or few.

Requests are bytes that were serialised beforehand. A slow caller sends its media in pieces with pauses, as through
a slow network; a call that fails is the benchmark's failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt
from grpc import aio
from multimodal.v1 import media_pb2, preprocessor_pb2

from bench.sidecars import INFER

_LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_UPLOAD = "/multimodal.v1.Preprocessor/InferUpload"
# Pieces of a slow caller's media.
_PIECES = 8
# gRPC's word for a connection that is its own: calls of one do not wait for another's bytes.
_APART = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(slots=True)
class Noted:
    """When calls were sent and answered; those under way have no answer yet."""

    sent: dict[int, int] = field(default_factory=dict)
    answered: dict[int, int] = field(default_factory=dict)

    def calls(self, until_ns: int) -> npt.NDArray[np.int64]:
        """int64 [n, 2]; what has no answer is taken to wait until then."""
        return np.array(
            [(sent, self.answered.get(number, until_ns)) for number, sent in self.sent.items()], np.int64
        ).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class Load:
    """So many callers in closed loops, each pausing `pause_s` after an answer; `slow_s` is what an upload takes, 0 for
    one message. `files` are what they send in turn, for `model`.
    """

    model: str
    files: Sequence[bytes]
    callers: int
    pause_s: float = 0.0
    slow_s: float = 0.0
    method: str = INFER


def request(model: str, data: bytes) -> bytes:
    """A serialised InferRequest (PreprocessRequest has the same fields) for one file, made anew whatever is kept."""
    media = [media_pb2.Media(inline=data)]
    return preprocessor_pb2.InferRequest(model=model, media=media, fresh=True).SerializeToString()


async def call_on(address: str, load: Load, noted: Noted, until: Callable[[], bool]) -> None:
    """Callers who go on until `until` says so; returns when the last answer is in."""
    numbers = count(len(noted.sent))
    made = [request(load.model, data) for data in load.files] if not load.slow_s else []

    async def caller(channel: aio.Channel) -> None:
        ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(load.method)
        upload: aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(_UPLOAD)
        while not until():
            number = next(numbers)
            noted.sent[number] = time.monotonic_ns()
            if load.slow_s:
                await upload(_pieces(load, number))
            else:
                await ask(made[number % len(made)])
            noted.answered[number] = time.monotonic_ns()
            if load.pause_s:
                await asyncio.sleep(load.pause_s)

    async with _channels(address, min(load.callers, 4)) as channels, asyncio.TaskGroup() as calls:
        for place in range(load.callers):
            calls.create_task(caller(channels[place % len(channels)]))


@asynccontextmanager
async def _channels(address: str, many: int) -> AsyncIterator[list[aio.Channel]]:
    channels = [aio.insecure_channel(address, options=[*_LARGE, *_APART]) for _ in range(many)]
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()


async def _pieces(load: Load, number: int) -> AsyncIterator[bytes]:
    data = load.files[number % len(load.files)]
    first = preprocessor_pb2.InferRequest(
        model=load.model,
        media=[media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=len(data)))],
        fresh=True,
    )
    yield preprocessor_pb2.InferUploadRequest(request=first).SerializeToString()
    size = -(-len(data) // _PIECES)
    for at in range(0, len(data), size):
        await asyncio.sleep(load.slow_s / _PIECES)
        chunk = media_pb2.Chunk(media_index=0, data=data[at : at + size])
        yield preprocessor_pb2.InferUploadRequest(chunk=chunk).SerializeToString()
