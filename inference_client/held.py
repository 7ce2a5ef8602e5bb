"""Holds a call's message back until the sidecar has let the call in, or has been silent for too long.

On the wire one message is the same as a stream of one, so the same methods are called by gRPC's streaming
kinds, whose requests may come later. The twins differ in who waits: gRPC's blocking API takes requests on
a thread of its own, the other in a task.

A call that ends before it is let in ends as it always does, and its message stays here. gRPC tells of such an
end twice, first as of metadata; those of a call that is let in say so, and others only mean that its end is near.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message
from multimodal.v1 import preprocessor_pb2

from inference_client import ask
from inference_client.ask import Asking
from inference_client.connection import SERVICE

# gRPC's name for what makes such a call, and the reply, by RPC.
_KINDS: Mapping[str, tuple[str, type[Message]]] = {
    "Preprocess": ("stream_unary", preprocessor_pb2.PreprocessResponse),
    "Infer": ("stream_unary", preprocessor_pb2.InferResponse),
    "InferStream": ("stream_stream", preprocessor_pb2.InferStreamResponse),
}


class BlockingCall(Protocol):
    """What is asked of a call of the blocking API, whose class has no public name."""

    def initial_metadata(self) -> Any: ...  # noqa: ANN401 - a tuple of a class without a public name
    def add_callback(self, callback: Callable[[], None]) -> bool: ...


def held_rpcs(channel: grpc.Channel | grpc.aio.Channel) -> Mapping[str, Callable[..., Any]]:
    """What makes calls on `channel` whose message comes later, by RPC."""
    return {
        rpc: getattr(channel, kind)(f"/{SERVICE}/{rpc}", _serialized, reply.FromString)
        for rpc, (kind, reply) in _KINDS.items()
    }


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


class Held(Iterator[Message]):
    """The only message of a blocking call, for gRPC to take; the call must then be listened to.

    `was_let_in`: the sidecar's word came, and the message went.
    """

    def __init__(self, request: Message, asking: Asking, left_s: float) -> None:
        self._request: Message | None = request
        self._asking = asking
        self._patience_s = asking.patience_s(left_s)
        self._heard = threading.Event()
        self._over = threading.Event()
        self.was_let_in = False

    def listen(self, call: BlockingCall) -> None:
        """Returns with the call's first word, or its end, and lets the message go if it is to."""
        if not call.add_callback(self._over.set):
            self._over.set()
        self.was_let_in = ask.is_let_in(call.initial_metadata())
        self._heard.set()

    def listen_aside(self, call: BlockingCall) -> None:
        """As `listen`, on a thread, which ends then."""
        threading.Thread(target=self.listen, args=(call,), daemon=True).start()

    def __next__(self) -> Message:
        request, self._request = self._request, None
        if request is None:
            raise StopIteration
        heard = self._heard.wait(self._patience_s)
        if not self.was_let_in and (self._over.wait(self._patience_s) if heard else self._over.is_set()):
            raise StopIteration
        self._asking.note_word(came=self.was_let_in)
        return request


class AsyncHeld:
    """As `Held`, for a call of the asyncio API."""

    def __init__(self, request: Message, asking: Asking, left_s: float) -> None:
        self._request = request
        self._asking = asking
        self._patience_s = asking.patience_s(left_s)
        self.was_let_in = False
        self._call: grpc.aio.Call | None = None

    def listen(self, call: grpc.aio.Call) -> None:
        """To be told before the loop runs on, which is when gRPC begins to ask for the message."""
        self._call = call

    async def __aiter__(self) -> AsyncIterator[Message]:
        assert self._call is not None  # noqa: S101 - as told above
        try:
            async with asyncio.timeout(self._patience_s):
                self.was_let_in = ask.is_let_in(await self._call.initial_metadata())
                if not self.was_let_in:
                    await self._call.code()  # returns when the call is over
        except TimeoutError:
            pass
        if not self._call.done():
            self._asking.note_word(came=self.was_let_in)
            yield self._request
