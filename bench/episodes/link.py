"""A slow network between a caller and the sidecar: bytes go on at a rate, one direction only.

A relay of one process's own loop; it knows no protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_PIECE = 16 * 1024


@asynccontextmanager
async def slow_link(address: str, bytes_per_s: float) -> AsyncIterator[str]:
    """A loopback address whose every connection is handed on to the unix socket `address` ("unix:path"), what callers
    send no faster than so many bytes a second each.
    """
    under_way: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        for one in (
            _hand_on(reader, onward_writer, bytes_per_s),
            _hand_on(onward_reader, writer, None),
        ):
            task = asyncio.create_task(one)
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _hand_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_s: float | None
) -> None:
    free_s = time.monotonic()
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            await asyncio.sleep(max(0.0, free_s - time.monotonic()))
            if bytes_per_s is not None:
                free_s = max(free_s, time.monotonic()) + len(piece) / bytes_per_s
            writer.write(piece)
            await writer.drain()
    writer.close()
