"""The asyncio client: the same verbs, arguments, results and errors as `Client`, awaited.

It sends what `calls.py` makes, hedged as `hedges.py` says, and turns failed calls into errors; no more.
Cancelling the task that awaits a call cancels the call. Files are read, and arrays encoded, on a thread,
never on the loop.
"""

# ruff: noqa: ASYNC109 - a `timeout` here is the call's own deadline, which travels to the server

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, Unpack, overload

import grpc
import grpc.aio
from google.protobuf.message import Message
from multimodal.v1.preprocessor_pb2 import EstimateRequest

from inference_client import ask, failures
from inference_client.ask import AskFirst, Asking
from inference_client.calls import (
    Call,
    Calls,
    EstimateOptions,
    InferOptions,
    Outgoing,
    PreprocessOptions,
    StreamOptions,
)
from inference_client.chats import MARKER, chat_of, expanded
from inference_client.connection import (
    DEFAULT_ADDRESS,
    DEFAULT_RETRIES,
    DEFAULT_TENANT_KEY,
    DEFAULT_TIMEOUT_S,
    DEFAULT_UPLOAD_THRESHOLD,
    Line,
    Retries,
    channel_options,
    rpcs,
    tenant_metadata,
)
from inference_client.diagnosis import Diagnosis, SelfCheck
from inference_client.errors import CallCancelled, SidecarError
from inference_client.hedges import Answered, Ended, Failed, Hedger, Hedges, Lines, Pause, Send, Steps, Wait
from inference_client.held import AsyncHeld, held_rpcs
from inference_client.identity import Bearer, Tls, Token, transport
from inference_client.items import MediaItem, are_at_hand, listed
from inference_client.plan import ThreadPlan
from inference_client.replies import StreamReader
from inference_client.results import (
    Batch,
    Estimate,
    Finished,
    Inference,
    MediaInfo,
    Model,
    Prepared,
    Priority,
    StageTimes,
    StreamOutputs,
)
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
        hedges: Hedges | None = None,
        upload_threshold: int = DEFAULT_UPLOAD_THRESHOLD,
        tenant: str = "",
        tenant_key: str = DEFAULT_TENANT_KEY,
        priority: Priority | str | None = None,
        ask_first: AskFirst = "auto",
        tls: Tls | None = None,
        token: Token = "",
        token_in_clear: bool = False,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._asking = Asking(ask_first)
        self._calls = Calls(upload_threshold, priority, self._asking)
        self._upload_threshold = upload_threshold
        self._lines = Lines.of(address, retries, hedges)
        self._credentials, self._named = transport(credentials, tls)
        self._bearer = Bearer(
            tenant_metadata(tenant, tenant_key),
            token,
            [line.address for line in self._lines.all()],
            is_safe=self._credentials is not None or token_in_clear,
        )
        self._hedger = None if hedges is None else Hedger(hedges, self._lines)
        self._channels: dict[Line, grpc.aio.Channel] = {}
        self._rpcs: dict[Line, Mapping[str, Callable[..., Any]]] = {}
        self._held: Mapping[str, Callable[..., Any]] = {}
        self._closed = asyncio.Event()

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
        **options: Unpack[StreamOptions],
    ) -> AsyncInferenceStream:
        """Media in, a stream of outputs out; for decoupled models and token streams.

        Options: see StreamOptions. Use it in an `async with` block and loop over it; leaving the block cancels
        what is left:

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
            rpc = self._start(call, until) if call.facts is None else self._ask(call, call.facts, until)[0]
            return call, rpc, Verdict(rpc)

        return AsyncInferenceStream(begin, partial(self._failure, model))

    async def chat(
        self,
        model: str,
        prompt: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        *,
        stream: bool = True,
        placeholder: str = "",
        marker: str = MARKER,
        timeout: float | None = None,
        **sampling: InputValue,
    ) -> AsyncIterator[str]:
        """Talks to a language model, as `Client.chat` does: gives its text as it comes, or, without `stream`, at once:

        async for text in client.chat("tensorrt_llm", "What is in <image>?", ["cat.jpg"], max_tokens=64):
            print(text, end="")
        """
        if placeholder:
            items = (await self.estimate(model, media, timeout=timeout)).items if media is not None else ()
            prompt = expanded(prompt, marker, placeholder, [item.placeholder_tokens for item in items])
        chat = chat_of(await self.model(model, timeout=timeout))
        inputs = chat.given(prompt, sampling, stream=stream)
        if not chat.decoupled:
            answer = await self.infer(model, media, inputs, timeout=timeout)
            yield chat.texts(answer)
            return
        async with self.infer_stream(model, media, inputs, timeout=timeout) as responses:
            async for outputs in responses:
                if text := chat.text(outputs):
                    yield text

    async def estimate(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        *,
        infos: MediaInfo | Sequence[MediaInfo] = (),
        timeout: float | None = None,
        **options: Unpack[EstimateOptions],
    ) -> Estimate:
        """What a call with this media would cost now and whether it would be let in; nothing is decoded.

        Of files that are not at hand, `infos` say what is known, at least the kind and `encoded_bytes`. The
        estimate's items are those of `media`, then those of `infos`. `timeout` is also that of the call asked
        about. Raises what any call raises; that the other one would be refused is told in `refusal`.
        """
        until = self._until(timeout)
        call = await _make(media, partial(self._calls.estimate, model, media, infos, **options))
        return await self._send(call, until)

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

    async def verdict(
        self, upstream: str = "", window_s: float = 0.0, *, timeout: float | None = None
    ) -> Diagnosis:
        """Whether the accelerator was kept waiting, by what, and what would help; `print` says it for people.

        Of the model server's model `upstream`, by default of all of them; over the last `window_s` seconds, up to 60,
        by default as the sidecar is set.
        """
        return await self._send(self._calls.verdict(upstream, window_s), self._until(timeout))

    async def watch(
        self, upstream: str = "", window_s: float = 0.0, interval_s: float = 0.0
    ) -> AsyncGenerator[Diagnosis, None]:
        """The verdict now and whenever it is new, every second or half, at most once in `interval_s` seconds.

        It has no deadline: it ends when the iterator is closed, or by an error. Closing the client ends it too.
        """
        call = self._calls.watch(upstream, window_s, interval_s)
        verdicts = self._rpc(call, self._lines.ordinary)(call.request, metadata=self._bearer.metadata())
        try:
            async for verdict in verdicts:
                yield call.read(verdict)
        except grpc.aio.AioRpcError as error:
            raise self._failure(call.model, error) from error
        except asyncio.CancelledError:
            _raise_if_closed(self, closed=self._closed.is_set())
            raise
        finally:
            verdicts.cancel()

    async def self_check(
        self, model: str, seconds: float = 0.0, *, timeout: float | None = None
    ) -> SelfCheck:
        """Whether the verdict's figure is right: the model's next request is replayed, to see what it does when fed.

        It loads the accelerator, for `seconds` (0.5 to 10, by default 2), after as long a look at what it does by
        itself. With waiting for a request it takes up to twice that and 12 s: give a long one a `timeout`.
        """
        return await self._send(self._calls.self_check(model, seconds), self._until(timeout))

    async def thread_plan(self, *, timeout: float | None = None) -> ThreadPlan:
        """How many processes and threads each kind of work has in the sidecar, and why; `print` tells it."""
        return await self._send(self._calls.thread_plan(), self._until(timeout))

    async def set_thread_plan(
        self, numbers: Mapping[str, int | None], *, timeout: float | None = None
    ) -> ThreadPlan:
        """Sets numbers of the plan, by the settings' names (`threads.image`); None gives one back to the settings.

        They are in force at once, without a request's notice, until the settings say otherwise or the sidecar restarts.
        Raises InvalidRequest for numbers that cannot be, with the reason; then nothing is changed.
        """
        return await self._send(self._calls.set_thread_plan(numbers), self._until(timeout))

    async def close(self) -> None:
        """Closes the connection; calls under way end as CallCancelled."""
        self._closed.set()
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}{', closed' if self._closed.is_set() else ''})"

    def _was_closed(self) -> CallCancelled:
        return CallCancelled(f"{self!r} was closed while the call was under way")

    def _until(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    async def _learn(self, model: str, inputs: Mapping[str, InputValue] | None, until: float) -> None:
        if self._calls.must_learn(model, inputs):
            self._calls.learn(await self._send(self._calls.model(model), until))

    async def _send(self, call: Call[ResultT], until: float) -> ResultT:
        if self._hedger is not None and call.repeatable and call.facts is None:
            now = time.monotonic()
            # No secret: it spreads waits.
            steps = self._hedger.steps(call.rpc, call.model, now, until, random.random())  # noqa: S311
            return call.read(await self._follow(steps, call, until))
        if call.facts is not None:
            return call.read(await self._asked(call, call.facts, until))
        return call.read(await self._reply(call, self._start(call, until)))

    async def _reply(self, call: Call[Any], rpc: Any) -> Any:  # noqa: ANN401 - a call and its reply, by the RPC
        verdict = Verdict(rpc)
        try:
            return await rpc
        except grpc.aio.AioRpcError as error:
            raise self._failure(call.model, await verdict.of(error)) from error
        except asyncio.CancelledError:
            call.raise_unread()
            _raise_if_closed(self, closed=self._closed.is_set())
            raise

    def _start(self, call: Call[Any], until: float) -> Any:  # noqa: ANN401 - a reply or a stream, by the RPC
        message = call.request if call.outgoing is None else _without_blocking(call.outgoing)
        return self._rpc(call, self._lines.ordinary)(
            message, timeout=_left(until), metadata=self._bearer.metadata()
        )

    async def _asked(self, call: Call[Any], facts: EstimateRequest, until: float) -> Any:  # noqa: ANN401 - as above
        """The reply to a call that asks first; where it is refused after it was let in, to its second try."""
        again = self._lines.ordinary.retries.attempts > 1
        while True:
            rpc, message = self._ask(call, facts, until)
            try:
                return await self._reply(call, rpc)
            except SidecarError as failure:
                wait_s = ask.again_in_s(failure, _left(until)) if message.was_let_in and again else None
                if wait_s is None:
                    raise
            again = False
            await self._pause(wait_s)

    def _ask(self, call: Call[Any], facts: EstimateRequest, until: float) -> tuple[Any, AsyncHeld]:
        """A call under way whose request is sent once it is let in, and that request."""
        channel = self._channel(self._lines.ordinary)
        if not self._held:
            self._held = held_rpcs(channel)
        left = _left(until)
        message = AsyncHeld(call.request, self._asking, left)
        metadata = (*self._bearer.metadata(), *ask.metadata(facts))
        rpc = self._held[call.rpc](message, timeout=left, metadata=metadata)
        message.listen(rpc)
        return rpc, message

    async def _pause(self, seconds: float) -> None:
        """Raises CallCancelled where the client is closed meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
            raise self._was_closed()

    async def _follow(self, steps: Steps[Any], call: Call[Any], until: float) -> Any:  # noqa: ANN401 - a reply, by the RPC
        """Does the call step by step. Attempts that are under way at the end are cancelled."""
        ended: asyncio.Queue[int] = asyncio.Queue()
        attempts: list[tuple[Line, grpc.aio.UnaryUnaryCall[Any, Any]]] = []
        told: Ended | None = None
        try:
            while True:
                match steps.send(told):
                    case Send(line):
                        if attempts and self._closed.is_set():
                            raise self._was_closed()
                        rpc = self._rpc(call, line)
                        attempt = rpc(call.request, timeout=_left(until), metadata=self._bearer.metadata())
                        attempt.add_done_callback(partial(_tell, ended, len(attempts)))
                        attempts.append((line, attempt))
                        told = None
                    case Wait(at):
                        which = await _first(ended, at)
                        told = None if which is None else await self._ended(which, *attempts[which])
                    case Pause(at):
                        told = None
                        await self._pause(_left(at))
        except StopIteration as done:
            return done.value
        except SidecarError as error:
            self._calls.doubt(call.model, error)
            raise
        except asyncio.CancelledError:
            _raise_if_closed(self, closed=self._closed.is_set())
            raise
        finally:
            for _, attempt in attempts:
                attempt.cancel()

    async def _ended(self, which: int, line: Line, attempt: grpc.aio.UnaryUnaryCall[Any, Any]) -> Ended:
        """How an attempt ended that has."""
        try:
            return Answered(which, time.monotonic(), await attempt)
        except grpc.aio.AioRpcError as error:
            failed = _failed(which, error, line.address)
        if line.address == self.address:
            self._asking.note(failed.error, failed.pushback_s)
        return failed

    def _rpc(self, call: Call[Any], line: Line) -> Any:  # noqa: ANN401 - gRPC has four kinds, with no common class
        """What makes the call."""
        channel = self._channel(line)
        if line not in self._rpcs:
            self._rpcs[line] = rpcs(channel)
        return self._rpcs[line][call.rpc]

    def _channel(self, line: Line) -> grpc.aio.Channel:
        """Made on the running loop, which it then belongs to."""
        if self._closed.is_set():
            raise RuntimeError(f"{self!r} takes no more calls; make a new one")
        if line not in self._channels:
            options = [*channel_options(line.retries, self._upload_threshold), *self._named]
            self._channels[line] = (
                grpc.aio.insecure_channel(line.address, options)
                if self._credentials is None
                else grpc.aio.secure_channel(line.address, self._credentials, options)
            )
        return self._channels[line]

    def _failure(self, model: str, error: grpc.aio.AioRpcError) -> SidecarError:
        failed = _failed(0, error, self.address)
        self._asking.note(failed.error, failed.pushback_s)
        if self._hedger is not None:
            self._hedger.count(failed)
        self._calls.doubt(model, failed.error)
        return failed.error


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


def _failed(which: int, error: grpc.aio.AioRpcError, address: str) -> Failed:
    """What a failed attempt stands for, and its push-back."""
    trailing = error.trailing_metadata()
    failure = failures.from_rpc(error.code(), error.details(), trailing, address=address)
    failure.__cause__ = error
    return Failed(which, time.monotonic(), failure, failures.pushback_s(trailing))


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _tell(ended: asyncio.Queue[int], which: int, _: object) -> None:
    ended.put_nowait(which)


async def _first(ended: asyncio.Queue[int], until: float) -> int | None:
    """The first attempt to end; None if none has by `until`."""
    try:
        async with asyncio.timeout(None if until == math.inf else _left(until)):
            return await ended.get()
    except TimeoutError:
        return None


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
