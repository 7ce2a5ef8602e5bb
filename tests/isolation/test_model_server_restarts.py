"""The model server dies under load and comes back: callers are told to retry, then answered as ever."""

from __future__ import annotations

import asyncio
import gc
import itertools
import types
from collections import Counter
from collections.abc import Iterator

import pytest

from inference_client import AsyncClient, Retries, UpstreamUnavailable
from testbed.triton import Triton, TritonFailed
from tests.isolation.inside import CLIP, eventually, inside, picture

MODELS = {"clip": CLIP}
SETTINGS = (
    "models.clip.upstream=checksum_fp32",
    "models.embeddings={}",
    "workers=2",
    "threads.image=4",
    "log.level=error",
)
PICTURES = [picture(number) for number in range(6)]


@pytest.fixture
def mortal(triton: Triton) -> Iterator[Triton]:
    """A Triton that the test may kill, with models whose answers go by place too."""
    try:
        assert triton.pid
    except TritonFailed:
        pytest.skip("a Triton elsewhere is not ours to kill")
    with Triton.start(models=("checksum_fp32", "embeddings")) as own:
        yield own


async def answer(client: AsyncClient, number: int) -> bytes:
    """The model's own word on a picture, and every third time a large answer."""
    if number % 3:
        return (await client.infer("clip", PICTURES[number % 6])).tensor("crc32").tobytes()
    return (
        (await client.infer("embeddings", inputs={"seed": number % 6, "delay_ms": 5}))
        .tensor("embedding")
        .tobytes()
    )


class Callers:
    """Eight who ask without a pause, hold every answer against the first ones, and come back when told to."""

    def __init__(self, client: AsyncClient, expected: list[bytes]) -> None:
        self._client = client
        self._expected = expected
        self._stop = asyncio.Event()
        self.ended: Counter[str] = Counter()
        self._tasks = [asyncio.create_task(self._call(first)) for first in range(8)]

    async def _call(self, first: int) -> None:
        for number in itertools.count(first):
            if self._stop.is_set():
                return
            try:
                found = await answer(self._client, number % 6)
                self.ended["answered" if found == self._expected[number % 6] else "wrong"] += 1
            except UpstreamUnavailable as unavailable:
                self.ended["unavailable" if unavailable.retryable else "lost"] += 1
                await asyncio.sleep(0.01)  # as a caller who was told to come back

    async def more(self, how: str, count: int = 50) -> None:
        """Returns when so many more calls ended like that."""
        goal = self.ended[how] + count
        await eventually(lambda: self.ended[how] >= goal or any(task.done() for task in self._tasks))

    async def stop(self) -> None:
        """Raises what ended one of them before."""
        self._stop.set()
        await asyncio.gather(*self._tasks)


@pytest.mark.triton
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.full)])
async def test_calls_meanwhile_are_unavailable_and_the_next_are_answered_by_shared_memory_again(
    mortal: Triton, kills: int
) -> None:
    with inside(MODELS, mortal.grpc_address, *SETTINGS) as it:
        async with AsyncClient(it.address, retries=Retries(attempts=1)) as client:
            callers = Callers(client, [await answer(client, number) for number in range(6)])
            try:
                for kill in range(kills):
                    await callers.more("answered")
                    await asyncio.to_thread(mortal.kill)
                    await callers.more("unavailable")
                    await asyncio.to_thread(mortal.restart)
                    await callers.more("answered")
                    await eventually(lambda: it.handover.path == "shared_memory")
                    raw = it.handover.raw_calls_total
                    await callers.more("answered")
                    assert it.handover.raw_calls_total == raw
                    assert it.handover.registrations_total == kill + 2
            finally:
                await callers.stop()
        assert set(callers.ended) == {"answered", "unavailable"}
        it.nothing_left()
        assert it.crew.deaths_total == 0


def test_a_model_server_that_stays_away_costs_no_memory() -> None:
    """It is looked for once a second, for as long as it takes: nothing may be kept of what failed."""

    def tracebacks() -> int:
        gc.collect()
        return sum(isinstance(each, types.TracebackType) for each in gc.get_objects())

    with inside(MODELS, "127.0.0.1:9", "workers=0", "log.level=error") as it:

        async def look(times: int) -> None:
            for _ in range(times):
                await it.catalogue._look(["clip"])

        it.sidecar.do(look(2))
        before = tracebacks()
        it.sidecar.do(look(20))
        assert tracebacks() <= before
