"""Callers who go away: a process of its own, so that what they take is not counted to the sidecar.

    python -m tests.isolation.leavers ADDRESS CANCELLED IN_FLIGHT SEED

Calls of every kind are begun and cancelled at random moments, until so many were cancelled before they
were answered. Prints one line of JSON: how many ended how, by kind. What ends otherwise than cancelled,
answered or refused for the moment is counted under its status.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc

from tests.isolation.inside import picture

pb = preprocessor_pb2
CHANNELS = 4
PICTURES = [picture(number) for number in range(8)]
CALL_S = 120.0


def media(count: int = 1) -> list[media_pb2.Media]:
    return [media_pb2.Media(inline=random.choice(PICTURES)) for _ in range(count)]


def number(name: str, value: int) -> media_pb2.Tensor:
    data = np.array([value], np.int32).tobytes()
    return media_pb2.Tensor(name=name, data_type=media_pb2.DATA_TYPE_INT32, shape=[1], data=data)


def embeddings() -> pb.InferRequest:
    """Its answer comes in slots of the arena, so the model server is not told to stop."""
    inputs = [number("seed", random.randrange(256)), number("delay_ms", random.randrange(4))]
    return pb.InferRequest(model="embeddings", inputs=inputs)


async def upload() -> AsyncIterator[pb.PreprocessUploadRequest]:
    data = random.choice(PICTURES)
    half = len(data) // 2
    items = [media_pb2.Media(chunked=media_pb2.Chunked())]
    yield pb.PreprocessUploadRequest(request=pb.PreprocessRequest(model="clip", media=items))
    yield pb.PreprocessUploadRequest(chunk=media_pb2.Chunk(data=data[:half]))
    await asyncio.sleep(random.random() * 0.01)
    yield pb.PreprocessUploadRequest(chunk=media_pb2.Chunk(data=data[half:]))


# The RPC, what is asked, and how often among a hundred: what Triton works on is the slowest. No streams: Triton
# 2.51 dies of cancelled ones after some hundreds (races in its own front, mended in 2.53 and later).
KINDS: Mapping[str, tuple[str, Callable[[], Any], int]] = {
    "preprocess": ("Preprocess", lambda: pb.PreprocessRequest(model="clip", media=media()), 70),
    "preprocess 4": ("Preprocess", lambda: pb.PreprocessRequest(model="clip", media=media(4)), 3),
    "infer": ("Infer", lambda: pb.InferRequest(model="clip", media=media()), 12),
    "infer slow": ("Infer", lambda: pb.InferRequest(model="accelerator", media=media(2)), 4),
    "infer embeddings": ("Infer", embeddings, 3),
    "preprocess upload": ("PreprocessUpload", upload, 8),
}


class Patience:
    """How long callers wait, so that they leave in every state of a call however loaded the machine is.

    A few stay until the answer comes, and tell how long it takes; of the others some leave at once, and the
    rest at any moment before that.
    """

    def __init__(self) -> None:
        self._usual_s = dict.fromkeys(KINDS, 0.05)

    def next(self, kind: str) -> float | None:
        """Seconds; None for one who stays."""
        how = random.random()
        if how < 0.03:
            return None
        return 0.0 if how < 0.1 else random.random() * self._usual_s[kind]

    def answered(self, kind: str, seconds: float) -> None:
        self._usual_s[kind] += 0.1 * (seconds - self._usual_s[kind])


async def leave(stub: preprocessor_pb2_grpc.PreprocessorStub, kind: str, patience: Patience) -> str:
    """Begins a call and cancels it; how it ended."""
    method, request, _ = KINDS[kind]
    begun, wait_s = time.monotonic(), patience.next(kind)
    call = getattr(stub, method)(request(), timeout=CALL_S)

    async def answer() -> None:
        await call

    answering = asyncio.create_task(answer())
    await asyncio.wait({answering}, timeout=wait_s)
    call.cancel()
    try:
        await answering
    except asyncio.CancelledError:
        return "cancelled"
    except grpc.aio.AioRpcError as error:
        # gRPC's own word for a message that it could not write any more.
        ours = error.code() is grpc.StatusCode.CANCELLED or error.details() == "Internal error from Core"
        return "cancelled" if ours else error.code().name
    if wait_s is None:
        patience.answered(kind, time.monotonic() - begun)
    return "answered"


async def run(address: str, cancelled: int, in_flight: int) -> Counter[str]:
    ended: Counter[str] = Counter()
    total, patience = 0, Patience()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(CHANNELS)]
    stubs = [preprocessor_pb2_grpc.PreprocessorStub(channel) for channel in channels]
    kinds, weights = list(KINDS), [weight for *_, weight in KINDS.values()]

    async def caller(stub: preprocessor_pb2_grpc.PreprocessorStub) -> None:
        nonlocal total
        while total < cancelled:
            (kind,) = random.choices(kinds, weights)
            how = await leave(stub, kind, patience)
            ended[f"{kind}: {how}"] += 1
            total += how == "cancelled"

    await asyncio.gather(*(caller(stubs[place % CHANNELS]) for place in range(in_flight)))
    for channel in channels:
        await channel.close()
    return ended


if __name__ == "__main__":
    at, count, most, seed = sys.argv[1], *map(int, sys.argv[2:])
    random.seed(seed)
    print(json.dumps(asyncio.run(run(at, count, most))))  # noqa: T201 - its answer
