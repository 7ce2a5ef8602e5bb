"""The blocking client. It sends what `calls.py` makes and turns failed calls into errors; no more.

Safe to use from several threads at once. After a fork, make a new client in the child.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar, Unpack, cast, overload

import grpc
from multimodal.v1 import preprocessor_pb2_grpc

from inference_client import failures
from inference_client.calls import Call, Calls, InferOptions, PreprocessOptions
from inference_client.connection import (
    DEFAULT_ADDRESS,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT_S,
    DEFAULT_UPLOAD_THRESHOLD,
    Retries,
    channel_options,
)
from inference_client.errors import SidecarError
from inference_client.items import MediaItem
from inference_client.replies import StreamReader
from inference_client.results import Batch, Finished, Inference, Model, Prepared, StageTimes, StreamOutputs
from inference_client.tensors import InputValue

ResultT = TypeVar("ResultT")


class _StreamCall(Protocol):
    """A call whose answer is a stream: gRPC's own class for it has no public name."""

    def __iter__(self) -> Iterator[Any]: ...
    def cancel(self) -> bool: ...


_Begun: TypeAlias = tuple[Call[StreamOutputs | None], _StreamCall]


class Client:
    """Talks to a sidecar at `address`: "host:port", or "unix:///path" for a socket.

    `credentials` turn TLS on (`grpc.ssl_channel_credentials(...)`). `timeout` is the default of every
    call, in seconds. Media that makes a request larger than `upload_threshold` bytes is sent in
    pieces; plain inputs cannot be, and are a ValueError if they alone are larger (and take over 1 MiB).

    Connecting happens with the first call. Every verb raises an error of `inference_client.errors`
    where the call fails; TypeError, ValueError and OSError are about the arguments given here.
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
        self._timeout = timeout
        self._calls = Calls(upload_threshold)
        options = channel_options(retries, upload_threshold)
        self._channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self._stub: preprocessor_pb2_grpc.PreprocessorStub | None = preprocessor_pb2_grpc.PreprocessorStub(
            self._channel
        )

    @overload
    def preprocess(  # type: ignore[overload-overlap]  # a str is a path here, never a list of paths
        self,
        model: str,
        media: MediaItem,
        *,
        timeout: float | None = None,
        **options: Unpack[PreprocessOptions],
    ) -> Prepared: ...
    @overload
    def preprocess(
        self,
        model: str,
        media: Sequence[MediaItem],
        *,
        timeout: float | None = None,
        **options: Unpack[PreprocessOptions],
    ) -> Batch[Prepared]: ...
    def preprocess(
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
        return self._send(self._calls.preprocess(model, media, **options), until)

    @overload
    def infer(  # type: ignore[overload-overlap]  # as for preprocess
        self,
        model: str,
        media: MediaItem | None = None,
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> Inference: ...
    @overload
    def infer(
        self,
        model: str,
        media: Sequence[MediaItem],
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> Batch[Inference]: ...
    def infer(
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
        self._learn(model, inputs, until)
        return self._send(self._calls.infer(model, media, inputs, **options), until)

    def infer_stream(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        inputs: Mapping[str, InputValue] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InferOptions],
    ) -> InferenceStream:
        """Media in, a stream of outputs out; for decoupled models and token streams.

        Use it in a `with` block and loop over it; leaving the block cancels what is left:

            with client.infer_stream("streamer", "voice.wav") as stream:
                for outputs in stream:
                    print(outputs.tensors)
            print(stream.times)
        """

        def begin(reader: StreamReader) -> _Begun:
            until = self._until(timeout)
            self._learn(model, inputs, until)
            call = self._calls.infer_stream(model, media, inputs, reader.read, **options)
            return call, self._start(call, until)

        return InferenceStream(begin, partial(self._failure, model))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models served there, sorted by name."""
        return self._send(self._calls.models(), self._until(timeout))

    def model(self, name: str, *, timeout: float | None = None) -> Model:
        """One model: what it takes and gives, and how its media is prepared."""
        return self._send(self._calls.model(name), self._until(timeout))

    def placeholder_tokens(
        self, model: str, sizes: Sequence[tuple[int, int]], *, timeout: float | None = None
    ) -> list[int]:
        """How many placeholder tokens pictures of these (width, height) take in the model's prompt, by their
        sizes alone; empty where the model has none, or its files do not tell.
        """
        return self._send(self._calls.placeholder_tokens(model, sizes), self._until(timeout))

    def close(self) -> None:
        """Closes the connection; calls under way end as CallCancelled."""
        self._stub = None
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r}{', closed' if self._stub is None else ''})"

    def _until(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _learn(self, model: str, inputs: Mapping[str, InputValue] | None, until: float) -> None:
        if self._calls.must_learn(model, inputs):
            self._calls.learn(self._send(self._calls.model(model), until))

    def _send(self, call: Call[ResultT], until: float) -> ResultT:
        try:
            reply = self._start(call, until)
        except grpc.RpcError as error:
            call.raise_unread()
            raise self._failure(call.model, error) from error
        return call.read(reply)

    def _start(self, call: Call[Any], until: float) -> Any:  # noqa: ANN401 - a reply or a stream, by the RPC
        if self._stub is None:
            raise RuntimeError(f"{self!r} takes no more calls; make a new one")
        rpc = getattr(self._stub, call.rpc)
        message = call.request if call.outgoing is None else call.outgoing
        return rpc(message, timeout=max(0.0, until - time.monotonic()))

    def _failure(self, model: str, error: grpc.RpcError) -> SidecarError:
        # Every error that a call of the blocking API raises is that call too; its class does not say so.
        call = cast("grpc.Call", error)
        failure = failures.from_rpc(
            call.code(), call.details(), call.trailing_metadata(), address=self.address
        )
        self._calls.doubt(model, failure)
        return failure


class InferenceStream:
    """A streamed answer, to be used in a `with` block: loop over it for the model's outputs.

    `prepared` tells what was found in the media, once the first event is in; `finished` and `times`
    tell where the time went, once the loop has run out.
    """

    def __init__(
        self, begin: Callable[[StreamReader], _Begun], failure: Callable[[grpc.RpcError], SidecarError]
    ) -> None:
        self._begin = begin
        self._failure = failure
        self._begun: _Begun | None = None
        self._reader = StreamReader()

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

    def close(self) -> None:
        """Cancels what is left of the call. Leaving the `with` block does it too."""
        if self._begun is not None:
            self._begun[1].cancel()

    def __enter__(self) -> Self:
        self._begun = self._begin(self._reader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamOutputs]:
        if self._begun is None:
            raise RuntimeError("enter the stream first: `with client.infer_stream(...) as stream:`")
        call, events = self._begun
        try:
            for event in events:
                if (outputs := call.read(event)) is not None:
                    yield outputs
        except grpc.RpcError as error:
            call.raise_unread()
            raise self._failure(error) from error
        self._reader.check_finished()
