"""The bare work, in a process of its own: decode, transform and pack in a loop on threads, and nothing else.

What serving is held against: the code of the sidecar's own stages with its own allocator settings, without
queue, channel, deadline or stamp. Each thread takes the next picture from a list until the count is done.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.processes import answers
from sidecar.media import DataType, Source
from sidecar.recipes.loader import load_recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe

_TYPES = {"pixel_values": DataType.FP32}


def loop(checkpoint: str, pictures: Sequence[str], threads: int, count: int) -> dict[str, float]:
    """Prepares `count` pictures on `threads` threads: CPU and wall nanoseconds of all together."""
    recipe = load_recipe(Path(checkpoint))
    sources = [Source(_bytes(path)) for path in pictures]
    jobs = [(source, probe(source)) for source in sources]
    numbers = iter(range(count))

    def take() -> None:
        for number in numbers:
            source, info = jobs[number % len(jobs)]
            pack(recipe.transform(decode(source, info, recipe.decode_target(info))), _TYPES)

    with ThreadPoolExecutor(threads) as pool:
        begun, cpu = time.perf_counter_ns(), time.process_time_ns()
        for done in [pool.submit(take) for _ in range(threads)]:
            done.result()
        return {"cpu_ns": time.process_time_ns() - cpu, "wall_ns": time.perf_counter_ns() - begun}


@functools.cache
def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


if __name__ == "__main__":
    answers(loop)
