"""Hand-over of one tensor to Triton by the sidecar's own upstream, timed in a process of its own.

The tensor lies where the sidecar's workers leave it: in memory of the process for raw bytes, in the arena for
shared memory. It is written anew before each call and outside the timed part, because writing it is the
transform's work on either path. One call at a time; the event loop is the sidecar's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import uvloop

from bench.processes import answers
from bench.sinks import INPUT, SINK
from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.deadline import Deadline
from sidecar.media import DataType, Tensor
from sidecar.stages.deliver.triton import TritonConfig, TritonUpstream
from sidecar.stages.deliver.upstream import Call
from sidecar.workers.budget import memory_limit

# Calls are made in blocks of one size, in turns, so that a machine's moods meet all sizes; the first ones of a
# block find the caches as the last size left them, and are not counted.
_BLOCK, _COLD = 12, 2
# Room for the largest payload and its neighbours.
_ARENA = ArenaConfig(bytes=32 << 20, name="bench")
_FOREVER = Deadline(None)

_Values = npt.NDArray[np.float32]


async def _raw(address: str, sizes: Sequence[int], blocks: int) -> list[list[int]]:
    upstream = TritonUpstream(TritonConfig(address, shared_memory="off"))
    try:
        signature = await upstream.describe(SINK, "", _FOREVER)
        every = [np.zeros(nbytes // 4, np.float32) for nbytes in sizes]
        calls = [(Call(SINK, (_tensor(each, None),), signature=signature), each) for each in every]
        return await _timed(upstream, calls, blocks)
    finally:
        await upstream.close()


async def _shared(address: str, sizes: Sequence[int], blocks: int) -> list[list[int]]:
    with _arena() as arena:
        upstream = TritonUpstream(TritonConfig(address), arena)
        try:
            signature = await upstream.describe(SINK, "", _FOREVER)
            calls = []
            slots = arena.try_take_all(sizes)
            assert slots is not None  # noqa: S101 - nobody else takes any, and the arena has room for them
            for slot, nbytes in zip(slots, sizes, strict=True):
                values = np.frombuffer(slot.view[:nbytes], np.float32)
                tensor = _tensor(values, slot.offset)
                calls.append((Call(SINK, (tensor,), slots=(slot,), signature=signature), values))
            taken = await _timed(upstream, calls, blocks)
            if (found := upstream.handover()).path != "shared_memory":
                raise RuntimeError(f"tensors went as bytes: {found.reason}")
            return taken
        finally:
            await upstream.close()


def _tensor(values: npt.NDArray[np.float32], at: int | None) -> Tensor:
    return Tensor(INPUT, DataType.FP32, (1, 1, 1, values.size), values.data.cast("B"), at)


async def _timed(
    upstream: TritonUpstream, calls: Sequence[tuple[Call, _Values]], blocks: int
) -> list[list[int]]:
    taken: list[list[int]] = [[] for _ in calls]
    for block in range(blocks):
        for (call, values), own in zip(calls, taken, strict=True):
            for number in range(_BLOCK):
                values[:] = block
                begun = time.perf_counter_ns()
                await upstream.infer(call, _FOREVER)
                if number >= _COLD:
                    own.append(time.perf_counter_ns() - begun)
    return taken


@contextmanager
def _arena() -> Iterator[Arena]:
    arena = Arena.open(_ARENA, memory_limit())
    try:
        yield arena
    finally:
        arena.close()


_PATHS = {"raw": _raw, "shared": _shared}


def measure(path: str, address: str, sizes: Sequence[int], blocks: int) -> list[list[int]]:
    """Nanoseconds of inferences with a tensor of so many bytes, a list a size. `path`: "raw" or "shared"."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_PATHS[path](address, sizes, blocks))


if __name__ == "__main__":
    answers(measure)
