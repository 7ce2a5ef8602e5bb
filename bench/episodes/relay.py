"""The way to the model server: a relay that may hold every inference up, as a slow network would.

It stands between a sidecar and Triton in a process of its own, and hands every call of the protocol on as it came:
bytes in, bytes out.

    python -m bench.episodes.relay LISTEN UPSTREAM CONTROL
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
from pathlib import Path

import grpc
import uvloop
from grpc import aio

CONTROL = struct.Struct("<d")
"""Milliseconds that every inference is held up on its way there."""
_SERVICE = "/inference.GRPCInferenceService/"
_LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class _Relay(grpc.GenericRpcHandler):
    """Hands calls on; unary ones, which is all that the benchmark needs."""

    def __init__(self, channel: aio.Channel, control: mmap.mmap) -> None:
        self._channel = channel
        self._control = control

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        method = details.method
        if not method.startswith(_SERVICE):
            return None
        onward: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        infers = method == f"{_SERVICE}ModelInfer"

        async def relay(message: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            if infers and (delay_ms := CONTROL.unpack(self._control)[0]):
                await asyncio.sleep(delay_ms / 1e3)
            try:
                return await onward(message, timeout=context.time_remaining())
            except aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
                raise

        return grpc.unary_unary_rpc_method_handler(relay)


async def _serve(listen: str, upstream: str, control: Path) -> None:
    with control.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), CONTROL.size, access=mmap.ACCESS_READ)
    async with aio.insecure_channel(upstream, options=_LARGE) as channel:
        server = aio.server(options=_LARGE)
        server.add_generic_rpc_handlers((_Relay(channel, mapped),))
        server.add_insecure_port(listen)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
