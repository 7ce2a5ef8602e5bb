"""Both clients under one set of sentences: the blocking one runs on a thread beside the server's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from inference_client import AsyncClient, AsyncInferenceStream, Client, InferenceStream, StreamOutputs
from tests.inference_client.scripted_server import ScriptedServer, serving


class Caller:
    """One client of either kind, awaited."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def call(self, verb: str, *args: Any, **options: Any) -> Any:
        method = getattr(self.client, verb)
        if isinstance(self.client, Client):
            return await asyncio.to_thread(method, *args, **options)
        return await method(*args, **options)

    async def preprocess(self, *args: Any, **options: Any) -> Any:
        return await self.call("preprocess", *args, **options)

    async def infer(self, *args: Any, **options: Any) -> Any:
        return await self.call("infer", *args, **options)

    async def stream(
        self,
        *args: Any,
        most: int | None = None,
        watch: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> tuple[list[StreamOutputs], Any]:
        """The stream's outputs, at most `most` of them, and the stream itself."""
        stream = self.client.infer_stream(*args, **options)
        if isinstance(stream, InferenceStream):
            return await asyncio.to_thread(_collect, stream, most, watch), stream
        return await _collect_async(stream, most, watch), stream

    async def close(self) -> None:
        await self.call("close")


def _collect(
    stream: InferenceStream, most: int | None, watch: Callable[[Any], None] | None
) -> list[StreamOutputs]:
    got: list[StreamOutputs] = []
    with stream as entered:
        for outputs in entered:
            got.append(outputs)
            if watch is not None:
                watch(entered)
            if len(got) == most:
                break
    return got


async def _collect_async(
    stream: AsyncInferenceStream, most: int | None, watch: Callable[[Any], None] | None
) -> list[StreamOutputs]:
    got: list[StreamOutputs] = []
    async with stream as entered:
        async for outputs in entered:
            got.append(outputs)
            if watch is not None:
                watch(entered)
            if len(got) == most:
                break
    return got


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture(params=[Client, AsyncClient], ids=["blocking", "asyncio"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Caller]]:
    """Makes callers of one kind; closes them at the end."""
    callers: list[Caller] = []

    def make(address: str, **options: Any) -> Caller:
        callers.append(Caller(request.param(address, **options)))
        return callers[-1]

    yield make
    for caller in callers:
        await caller.close()


@pytest.fixture
def caller(connect: Callable[..., Caller], server: ScriptedServer) -> Caller:
    return connect(server.address)
