"""The blocking client. It sends what `calls.py` makes, hedged as `hedges.py` says, and turns failed calls
into errors; no more.

Safe to use from several threads at once. After a fork, make a new client in the child.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar, Unpack, cast, overload

import grpc
from multimodal.v1.preprocessor_pb2 import EstimateRequest

from inference_client import ask, failures
from inference_client.ask import AskFirst, Asking
from inference_client.calls import (
    Call,
    Calls,
    EstimateOptions,
    InferOptions,
    PreprocessOptions,
    StreamOptions,
)
from inference_client.chats import MARKER, Chat, chat_of, expanded
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
from inference_client.held import Held, held_rpcs
from inference_client.identity import Bearer, Tls, Token, transport
from inference_client.items import MediaItem
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

ResultT = TypeVar("ResultT")


class _StreamCall(Protocol):
    """A call whose answer is a stream: gRPC's own class for it has no public name."""

    def __iter__(self) -> Iterator[Any]: ...
    def cancel(self) -> bool: ...


class _Attempt(Protocol):
    """A call under way whose answer is one message, as above."""

    def add_done_callback(self, fn: Callable[[Any], None]) -> None: ...
    def result(self) -> Any: ...  # noqa: ANN401 - a reply, by the RPC
    def cancel(self) -> bool: ...


_Begun: TypeAlias = tuple[Call[StreamOutputs | None], _StreamCall]


class Client:
    """Talks to a sidecar at `address`: "host:port", or "unix:///path" for a socket.

    `tls` turns TLS on, as do `credentials` of gRPC's own making. `token` says who calls: a text, or a function that
    gives it for each call, such as `token_file(...)`; without TLS it goes to this machine alone, unless
    `token_in_clear`. `timeout` is the default of every
    call, in seconds. Media that makes a request larger than `upload_threshold` bytes is sent in
    pieces; plain inputs cannot be, and are a ValueError if they alone are larger (and take over 1 MiB).
    `tenant` says who calls, to be given a fair share, in the metadata `tenant_key`; `priority` whose work
    goes first among one's own. `hedges` send slow calls a second time; none by default. `ask_first`: which
    calls ask to be let in before they send their media: "auto", those while the sidecar pushes calls back and
    shortly after, "always" or "never".

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
        self._lines = Lines.of(address, retries, hedges)
        secure, named = transport(credentials, tls)
        self._bearer = Bearer(
            tenant_metadata(tenant, tenant_key),
            token,
            [line.address for line in self._lines.all()],
            is_safe=secure is not None or token_in_clear,
        )
        self._hedger = None if hedges is None else Hedger(hedges, self._lines)
        self._closed = threading.Event()
        self._channels: dict[Line, grpc.Channel] = {}
        for line in self._lines.all():
            options = [*channel_options(line.retries, upload_threshold), *named]
            self._channels[line] = (
                grpc.insecure_channel(line.address, options)
                if secure is None
                else grpc.secure_channel(line.address, secure, options)
            )
        self._rpcs = {line: rpcs(channel) for line, channel in self._channels.items()}
        self._held = held_rpcs(self._channels[self._lines.ordinary])

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
        **options: Unpack[StreamOptions],
    ) -> InferenceStream:
        """Media in, a stream of outputs out; for decoupled models and token streams.

        Options: see StreamOptions. Use it in a `with` block and loop over it; leaving the block cancels what
        is left:

            with client.infer_stream("streamer", "voice.wav") as stream:
                for outputs in stream:
                    print(outputs.tensors)
            print(stream.times)
        """

        def begin(reader: StreamReader) -> _Begun:
            until = self._until(timeout)
            self._learn(model, inputs, until)
            call = self._calls.infer_stream(model, media, inputs, reader.read, **options)
            if call.facts is None:
                return call, self._start(call, until)
            events, message = self._ask(call, call.facts, until)
            message.listen_aside(events)
            return call, events

        return InferenceStream(begin, partial(self._failure, model))

    @overload
    def chat(
        self,
        model: str,
        prompt: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        *,
        stream: Literal[True] = True,
        placeholder: str = "",
        marker: str = MARKER,
        timeout: float | None = None,
        **sampling: InputValue,
    ) -> Iterator[str]: ...

    @overload
    def chat(
        self,
        model: str,
        prompt: str,
        media: MediaItem | Sequence[MediaItem] | None = None,
        *,
        stream: Literal[False],
        placeholder: str = "",
        marker: str = MARKER,
        timeout: float | None = None,
        **sampling: InputValue,
    ) -> str: ...

    def chat(
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
    ) -> Iterator[str] | str:
        """Talks to a language model: gives its text as it comes, or, without `stream`, whole.

        With `placeholder`, a token that stands for a part of a picture in the model's prompt, each `marker` in
        `prompt` becomes as many of it as the item there takes, by the model's recipe; without, the prompt goes as it
        is. `sampling` are the model's own parameters, such as max_tokens=64. Leaving the loop ends the model's work:

            for text in client.chat("tensorrt_llm", "What is in <image>?", ["cat.jpg"], max_tokens=64):
                print(text, end="")

        Raises ValueError for what the model does not take, and what `infer_stream` raises.
        """
        if placeholder:
            items = self.estimate(model, media, timeout=timeout).items if media is not None else ()
            prompt = expanded(prompt, marker, placeholder, [item.placeholder_tokens for item in items])
        chat = chat_of(self.model(model, timeout=timeout))
        inputs = chat.given(prompt, sampling, stream=stream)
        texts = self._texts(chat, model, media, inputs, timeout)
        return texts if stream else "".join(texts)

    def _texts(
        self,
        chat: Chat,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None,
        inputs: Mapping[str, InputValue],
        timeout: float | None,
    ) -> Iterator[str]:
        if not chat.decoupled:
            answer = self.infer(model, media, inputs, timeout=timeout)
            yield chat.texts(answer)
            return
        with self.infer_stream(model, media, inputs, timeout=timeout) as responses:
            yield from filter(None, map(chat.text, responses))

    def estimate(
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
        return self._send(self._calls.estimate(model, media, infos, **options), until)

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

    def verdict(
        self, upstream: str = "", window_s: float = 0.0, *, timeout: float | None = None
    ) -> Diagnosis:
        """Whether the accelerator was kept waiting, by what, and what would help; `print` says it for people.

        Of the model server's model `upstream`, by default of all of them; over the last `window_s` seconds, up to 60,
        by default as the sidecar is set.
        """
        return self._send(self._calls.verdict(upstream, window_s), self._until(timeout))

    def watch(
        self, upstream: str = "", window_s: float = 0.0, interval_s: float = 0.0
    ) -> Generator[Diagnosis, None, None]:
        """The verdict now and whenever it is new, every second or half, at most once in `interval_s` seconds.

        It has no deadline: it ends when the iterator is closed, or by an error. Closing the client ends it too.
        """
        call = self._calls.watch(upstream, window_s, interval_s)
        watching = self._rpc(call, self._lines.ordinary)
        verdicts: _StreamCall = watching(call.request, metadata=self._bearer.metadata())
        try:
            for verdict in verdicts:
                yield call.read(verdict)
        except grpc.RpcError as error:
            raise self._failure(call.model, error) from error
        finally:
            verdicts.cancel()

    def self_check(self, model: str, seconds: float = 0.0, *, timeout: float | None = None) -> SelfCheck:
        """Whether the verdict's figure is right: the model's next request is replayed, to see what it does when fed.

        It loads the accelerator, for `seconds` (0.5 to 10, by default 2), after as long a look at what it does by
        itself. With waiting for a request it takes up to twice that and 12 s: give a long one a `timeout`.
        """
        return self._send(self._calls.self_check(model, seconds), self._until(timeout))

    def thread_plan(self, *, timeout: float | None = None) -> ThreadPlan:
        """How many processes and threads each kind of work has in the sidecar, and why; `print` tells it."""
        return self._send(self._calls.thread_plan(), self._until(timeout))

    def set_thread_plan(
        self, numbers: Mapping[str, int | None], *, timeout: float | None = None
    ) -> ThreadPlan:
        """Sets numbers of the plan, by the settings' names (`threads.image`); None gives one back to the settings.

        They are in force at once, without a request's notice, until the settings say otherwise or the sidecar restarts.
        Raises InvalidRequest for numbers that cannot be, with the reason; then nothing is changed.
        """
        return self._send(self._calls.set_thread_plan(numbers), self._until(timeout))

    def close(self) -> None:
        """Closes the connection; calls under way end as CallCancelled."""
        self._closed.set()
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r}{', closed' if self._closed.is_set() else ''})"

    def _was_closed(self) -> CallCancelled:
        return CallCancelled(f"{self!r} was closed while the call was under way")

    def _until(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _learn(self, model: str, inputs: Mapping[str, InputValue] | None, until: float) -> None:
        if self._calls.must_learn(model, inputs):
            self._calls.learn(self._send(self._calls.model(model), until))

    def _send(self, call: Call[ResultT], until: float) -> ResultT:
        if self._hedger is not None and call.repeatable and call.facts is None:
            now = time.monotonic()
            # No secret: it spreads waits.
            steps = self._hedger.steps(call.rpc, call.model, now, until, random.random())  # noqa: S311
            return call.read(self._follow(steps, call, until))
        if call.facts is not None:
            return call.read(self._asked(call, call.facts, until))
        try:
            reply = self._start(call, until)
        except grpc.RpcError as error:
            call.raise_unread()
            raise self._failure(call.model, error) from error
        return call.read(reply)

    def _start(self, call: Call[Any], until: float) -> Any:  # noqa: ANN401 - a reply or a stream, by the RPC
        message = call.request if call.outgoing is None else call.outgoing
        return self._rpc(call, self._lines.ordinary)(
            message, timeout=_left(until), metadata=self._bearer.metadata()
        )

    def _asked(self, call: Call[Any], facts: EstimateRequest, until: float) -> Any:  # noqa: ANN401 - as above
        """The reply to a call that asks first; where it is refused after it was let in, to its second try."""
        again = self._lines.ordinary.retries.attempts > 1
        while True:
            rpc, message = self._ask(call, facts, until)
            try:
                message.listen(rpc)
                return rpc.result()
            except grpc.RpcError as error:
                failure = self._failure(call.model, error)
                wait_s = ask.again_in_s(failure, _left(until)) if message.was_let_in and again else None
                if wait_s is None:
                    raise failure from error
            finally:
                rpc.cancel()
            again = False
            if self._closed.wait(wait_s):
                raise self._was_closed()

    def _ask(self, call: Call[Any], facts: EstimateRequest, until: float) -> tuple[Any, Held]:
        """A call under way whose request is sent once it is let in, and that request."""
        self._require_open()
        left = _left(until)
        message = Held(call.request, self._asking, left)
        rpc = self._held[call.rpc]
        # Of what gives one reply, the reply is waited for unless a future is asked for.
        begin = rpc.future if isinstance(rpc, grpc.StreamUnaryMultiCallable) else rpc
        return begin(
            message, timeout=left, metadata=(*self._bearer.metadata(), *ask.metadata(facts))
        ), message

    def _follow(self, steps: Steps[Any], call: Call[Any], until: float) -> Any:  # noqa: ANN401 - a reply, by the RPC
        """Does the call step by step. Attempts that are under way at the end are cancelled."""
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        attempts: list[tuple[Line, _Attempt]] = []
        told: Ended | None = None
        try:
            while True:
                match steps.send(told):
                    case Send(line):
                        if attempts and self._closed.is_set():
                            raise self._was_closed()
                        rpc = self._rpc(call, line)
                        attempt = rpc.future(
                            call.request, timeout=_left(until), metadata=self._bearer.metadata()
                        )
                        attempt.add_done_callback(partial(_tell, ended, len(attempts)))
                        attempts.append((line, attempt))
                        told = None
                    case Wait(at):
                        which = _first(ended, at)
                        told = None if which is None else self._ended(which, *attempts[which])
                    case Pause(at):
                        told = None
                        if self._closed.wait(_left(at)):
                            raise self._was_closed()
        except StopIteration as done:
            return done.value
        except SidecarError as error:
            self._calls.doubt(call.model, error)
            raise
        finally:
            for _, attempt in attempts:
                attempt.cancel()

    def _ended(self, which: int, line: Line, attempt: _Attempt) -> Ended:
        """How an attempt ended that has."""
        try:
            return Answered(which, time.monotonic(), attempt.result())
        except grpc.RpcError as error:
            failed = _failed(which, error, line.address)
        if line.address == self.address:
            self._asking.note(failed.error, failed.pushback_s)
        return failed

    def _rpc(self, call: Call[Any], line: Line) -> Any:  # noqa: ANN401 - gRPC has four kinds, with no common class
        self._require_open()
        return self._rpcs[line][call.rpc]

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise RuntimeError(f"{self!r} takes no more calls; make a new one")

    def _failure(self, model: str, error: grpc.RpcError) -> SidecarError:
        failed = _failed(0, error, self.address)
        self._asking.note(failed.error, failed.pushback_s)
        if self._hedger is not None:
            self._hedger.count(failed)
        self._calls.doubt(model, failed.error)
        return failed.error


def _failed(which: int, error: grpc.RpcError, address: str) -> Failed:
    """What a failed attempt stands for, and its push-back."""
    # Every error that a call of the blocking API raises is that call too; its class does not say so.
    call = cast("grpc.Call", error)
    trailing = call.trailing_metadata()
    failure = failures.from_rpc(call.code(), call.details(), trailing, address=address)
    failure.__cause__ = error
    return Failed(which, time.monotonic(), failure, failures.pushback_s(trailing))


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _tell(ended: queue.SimpleQueue[int], which: int, _: object) -> None:
    ended.put(which)


def _first(ended: queue.SimpleQueue[int], until: float) -> int | None:
    """The first attempt to end; None if none has by `until`."""
    try:
        return ended.get(timeout=None if until == math.inf else _left(until))
    except queue.Empty:
        return None


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
