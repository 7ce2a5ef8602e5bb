"""The ways in which load reaches a server: gRPC and HTTP/1.1, with requests that were laid beforehand.

A client that measures must cost little on cores that it shares with what it measures, so requests are bytes
that were serialised once and answers are bytes that nobody parses. Whoever measures checks an answer first,
by other means; here only its status is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from grpc import aio

from bench.load import Call

_MOST_BYTES = 64 * 2**20
_OK = b"HTTP/1.1 200"


@asynccontextmanager
async def grpc_calls(address: str, method: str, requests: Sequence[bytes]) -> AsyncIterator[Call]:
    """Calls of one unary method ("/package.Service/Method"), the requests in turn. Raises as grpc.aio does."""
    options = [
        ("grpc.max_send_message_length", _MOST_BYTES),
        ("grpc.max_receive_message_length", _MOST_BYTES),
    ]
    # A proxy from the environment would be measured along.
    options.append(("grpc.enable_http_proxy", 0))
    async with aio.insecure_channel(address, options=options) as channel:
        ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

        async def call(number: int) -> bytes:
            return await ask(requests[number % len(requests)])

        yield call


@asynccontextmanager
async def http_calls(port: int, requests: Sequence[bytes]) -> AsyncIterator[Call]:
    """Calls of whole HTTP/1.1 requests in turn, over connections that are kept. RuntimeError but for 200."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    every: list[asyncio.StreamWriter] = []

    async def call(number: int) -> bytes:
        if idle:
            reader, writer = idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            every.append(writer)
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_content_length(head))
        if not head.startswith(_OK):
            raise RuntimeError(f"the server answered {head.splitlines()[0]!r}: {body[:500]!r}")
        idle.append((reader, writer))
        return body

    try:
        yield call
    finally:
        for writer in every:
            writer.close()


def http_request(path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"the server answered without a length: {head[:200]!r}")
