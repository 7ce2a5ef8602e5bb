"""The asyncio client: the same verbs, arguments, results and errors as `Client`, awaited.

It sends what `calls.py` makes and turns failed calls into errors; no more. Cancelling the task that
awaits a call cancels the call. Files are read, and arrays encoded, on a thread, never on the loop.
"""

# ruff: noqa: ASYNC109 - a `timeout` here is the call's own deadline, which travels to the server

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, Unpack, overload

import grpc
import grpc.aio
from google.protobuf.message import Message
from multimodal.v1 import preprocessor_pb2_grpc

from inference_client import failures
from inference_client.calls import Call, Calls, InferOptions, Outgoing, PreprocessOptions
from inference_client.connection import (
    DEFAULT_ADDRESS,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT_S,
    DEFAULT_UPLOAD_THRESHOLD,
    Retries,
    channel_options,
)
from inference_client.errors import CallCancelled, SidecarError
from inference_client.items import MediaItem, are_at_hand, listed
from inference_client.replies import StreamReader
from inference_client.results import Batch, Finished, Inference, Model, Prepared, StageTimes, StreamOutputs
from inference_client.tensors import InputValue
from inference_client.verdict import Verdict

ResultT = TypeVar("ResultT")


class AsyncClient:
    """Talks to a sidecar at `address`: "host:port", or "unix:///path" for a socket.

    Arguments and errors as for `Client`. The client belongs to the event loop of its first call.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        retries: Retries = DEFAULT_RETRIES,
        upload_threshold: int = DEFAULT_UPLOAD_THRESHOLD,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._timeout = timeout
        self._calls = Calls(upload_threshold)
        self._options = channel_options(retries, upload_threshold)
        self._channel: grpc.aio.Channel | None = None
        self._stub: preprocessor_pb2_grpc.PreprocessorAsyncStub | None = None
        self._closed = False

    @overload
    async def preprocess(  # type: ignore[overload-overlap]  # a str is a path here, never a list of paths
        self,
        model: str,
        media: MediaItem,
        *,
        timeout: float | None = None,
        **options: Unpack[PreprocessOptions],
    ) -> Prepared: ...
    @overload
    async def preprocess(
        self,
        model: str,
        media: Sequence[MediaItem],
        *,
        timeout: float | None = None,
        **options: Unpack[PreprocessOptions],
    ) -> Batch[Prepared]: ...
    async def preprocess(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem],
        *,
        timeout: float | None = None,
        **options: Unpack[PreprocessOptions],
    ) -> Prepared | Batch[Prepared]:
        """Media in, tensors out: what the model's own processor would give. The model is not asked.

        One item gives one result, and its problem is raised. A list gives a batch with a result an
        item, each with its own `problem`. `timeout` is in seconds, waiting and retries included; None
        means the client's own. Options: see PreprocessOptions.
        """
        until = self._until(timeout)
        call = await _make(media, partial(self._calls.preprocess, model, media, **options))
        return await self._send(call, until)

    @overload
    async def infer(  # type: ignore[overload-overlap]  # as for preprocess
        self,
        model: str,
        media: MediaItem | None = None,
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> Inference: ...
    @overload
    async def infer(
        self,
        model: str,
        media: Sequence[MediaItem],
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> Batch[Inference]: ...
    async def infer(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> Inference | Batch[Inference]:
        """Media in, the model's outputs out.

        `inputs` are the model's other inputs by name: arrays, texts, numbers or lists of them, shaped
        without the batch axis; plain values take the type that the model declares. One item (or no
        media) gives one result; a list gives a batch. `timeout` as for `preprocess`; options: see InferOptions.
        """
        until = self._until(timeout)
        await self._learn(model, inputs, until)
        call = await _make(media, partial(self._calls.infer, model, media, inputs, **options))
        return await self._send(call, until)

    def infer_stream(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> AsyncInferenceStream:
        """Media in, a stream of outputs out; for decoupled models and token streams.

        Use it in an `async with` block and loop over it; leaving the block cancels what is left:

            async with client.infer_stream("streamer", "voice.wav") as stream:
                async for outputs in stream:
                    print(outputs.tensors)
            print(stream.times)
        """

        async def begin(reader: StreamReader) -> _Begun:
            until = self._until(timeout)
            await self._learn(model, inputs, until)
            make = partial(self._calls.infer_stream, model, media, inputs, reader.read, **options)
            call = await _make(media, make)
            rpc = self._start(call, until)
            return call, rpc, Verdict(rpc)

        return AsyncInferenceStream(begin, partial(self._failure, model))

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models served there, sorted by name."""
        return await self._send(self._calls.models(), self._until(timeout))

    async def model(self, name: str, *, timeout: float | None = None) -> Model:
        """One model: what it takes and gives, and how its media is prepared."""
        return await self._send(self._calls.model(name), self._until(timeout))

    async def placeholder_tokens(
        self, model: str, sizes: Sequence[tuple[int, int]], *, timeout: float | None = None
    ) -> list[int]:
        """How many placeholder tokens pictures of these (width, height) take in the model's prompt, by their
        sizes alone; empty where the model has none, or its files do not tell.
        """
        return await self._send(self._calls.placeholder_tokens(model, sizes), self._until(timeout))

    async def close(self) -> None:
        """Closes the connection; calls under way end as CallCancelled."""
        self._closed = True
        self._stub = None
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}{', closed' if self._closed else ''})"

    def _until(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    async def _learn(self, model: str, inputs: Mapping[str, InputValue] | None, until: float) -> None:
        if self._calls.must_learn(model, inputs):
            self._calls.learn(await self._send(self._calls.model(model), until))

    async def _send(self, call: Call[ResultT], until: float) -> ResultT:
        rpc = self._start(call, until)
        verdict = Verdict(rpc)
        try:
            reply = await rpc
        except grpc.aio.AioRpcError as error:
            raise self._failure(call.model, await verdict.of(error)) from error
        except asyncio.CancelledError:
            call.raise_unread()
            _raise_if_closed(self, closed=self._closed)
            raise
        return call.read(reply)

    def _start(self, call: Call[Any], until: float) -> Any:  # noqa: ANN401 - a reply or a stream, by the RPC
        rpc = getattr(self._connected(), call.rpc)
        message = call.request if call.outgoing is None else _without_blocking(call.outgoing)
        return rpc(message, timeout=max(0.0, until - time.monotonic()))

    def _connected(self) -> preprocessor_pb2_grpc.PreprocessorAsyncStub:
        """The stub; its channel is made on the running loop, which it then belongs to."""
        if self._closed:
            raise RuntimeError(f"{self!r} takes no more calls; make a new one")
        if self._stub is None:
            self._channel = (
                grpc.aio.insecure_channel(self.address, self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(self.address, self._credentials, self._options)
            )
            self._stub = preprocessor_pb2_grpc.PreprocessorStub(self._channel)
        return self._stub

    def _failure(self, model: str, error: grpc.aio.AioRpcError) -> SidecarError:
        failure = failures.from_rpc(
            error.code(), error.details(), error.trailing_metadata(), address=self.address
        )
        self._calls.doubt(model, failure)
        return failure


class AsyncInferenceStream:
    """A streamed answer, to be used in an `async with` block: loop over it for the model's outputs.

    `prepared` tells what was found in the media, once the first event is in; `finished` and `times`
    tell where the time went, once the loop has run out.
    """

    def __init__(
        self,
        begin: Callable[[StreamReader], Awaitable[_Begun]],
        failure: Callable[[grpc.aio.AioRpcError], SidecarError],
    ) -> None:
        self._begin = begin
        self._failure = failure
        self._begun: _Begun | None = None
        self._reader = StreamReader()
        self._closed = False

    @property
    def prepared(self) -> tuple[Prepared, ...] | None:
        """One result a media item, without tensors; None until the media is prepared."""
        return self._reader.prepared

    @property
    def finished(self) -> Finished | None:
        """Times, cost and the number of responses; None until the model is done."""
        return self._reader.finished

    @property
    def times(self) -> StageTimes:
        """Where the call's time went. Raises RuntimeError until the stream is finished."""
        return self._reader.times()

    async def close(self) -> None:
        """Cancels what is left of the call. Leaving the `async with` block does it too."""
        self._closed = True
        if self._begun is not None:
            self._begun[1].cancel()

    async def __aenter__(self) -> Self:
        self._begun = await self._begin(self._reader)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[StreamOutputs]:
        if self._begun is None:
            raise RuntimeError("enter the stream first: `async with client.infer_stream(...) as stream:`")
        call, events, verdict = self._begun
        try:
            async for event in events:
                if (outputs := call.read(event)) is not None:
                    yield outputs
        except grpc.aio.AioRpcError as error:
            raise self._failure(await verdict.of(error)) from error
        except asyncio.CancelledError:
            call.raise_unread()
            _raise_if_closed(self, closed=self._closed)
            raise
        self._reader.check_finished()


_Begun: TypeAlias = tuple[
    Call[StreamOutputs | None],
    grpc.aio.UnaryStreamCall[Any, Any] | grpc.aio.StreamStreamCall[Any, Any],
    Verdict,
]


async def _make(
    media: MediaItem | Sequence[MediaItem] | None, make: Callable[[], Call[ResultT]]
) -> Call[ResultT]:
    """Makes the call here where that is quick, and on a thread where it reads files or encodes."""
    return make() if are_at_hand(listed(media)[0]) else await asyncio.to_thread(make)


async def _without_blocking(outgoing: Outgoing) -> AsyncIterator[Message]:
    """The messages of an upload, each made on a thread, because it may come from a disk."""
    while (message := await asyncio.to_thread(next, outgoing, None)) is not None:
        yield message


def _raise_if_closed(what: AsyncClient | AsyncInferenceStream, *, closed: bool) -> None:
    """Tells a call that was closed from a task that was cancelled: gRPC says CancelledError to both."""
    task = asyncio.current_task()
    if closed and not (task is not None and task.cancelling()):
        raise CallCancelled(f"{type(what).__name__} was closed while the call was under way") from None
