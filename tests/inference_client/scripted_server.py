"""A real gRPC server that answers as its script says, for what a well-behaved sidecar never does.

A script is a list of answers per RPC; each attempt takes the next, and the last one is repeated. An
answer is a reply message, a list of events (of a stream), a `Refusal`, `HANG`, or one of these `Held` until
something else has happened. It keeps every request it saw. It must never decide anything by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from multimodal.v1 import diagnostics_pb2_grpc, preprocessor_pb2, preprocessor_pb2_grpc


class _Hang:
    """Never answers; only the caller's leaving ends it."""


HANG = _Hang()


@dataclass(frozen=True)
class Refusal:
    """Ends the call with a status: with google.rpc details if `reason` is set, bare otherwise.

    `pushback_ms` travels as gRPC's own retry push-back; `after_metadata` sends initial metadata first,
    and `unread` refuses an upload by its first message.
    """

    code: grpc.StatusCode
    reason: str = ""
    message: str = "as the script says"
    facts: dict[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    violations: tuple[tuple[str, str], ...] = ()
    domain: str = "multimodal.v1"
    pushback_ms: int | None = None
    after_metadata: bool = False
    unread: bool = False

    def trailing(self) -> tuple[tuple[str, str | bytes], ...]:
        pairs: list[tuple[str, str | bytes]] = []
        if self.reason:
            pairs.append(("grpc-status-details-bin", self._status().SerializeToString()))
        if self.pushback_ms is not None:
            pairs.append(("grpc-retry-pushback-ms", str(self.pushback_ms)))
        return tuple(pairs)

    def _status(self) -> Any:
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=self.domain, metadata=self.facts)
        ]
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.violations:
            violation = error_details_pb2.BadRequest.FieldViolation
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[violation(field=at, description=why) for at, why in self.violations]
                )
            )
        packed = []
        for detail in details:
            wrapped = any_pb2.Any()
            wrapped.Pack(detail)
            packed.append(wrapped)
        return status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)


@dataclass(frozen=True)
class Held:
    """Of a call with one answer: gives `then`, but not before `gate` is set."""

    gate: asyncio.Event
    then: Any


class ScriptedServer(preprocessor_pb2_grpc.PreprocessorServicer, diagnostics_pb2_grpc.DiagnosticsServicer):
    """Both services, their script and what they saw: `seen[rpc]` holds one list of messages an attempt.

    `metadata[rpc]` holds what came along with each. `asked` is set with the first attempt, `hanging` while a
    caller hangs, and `left` once that caller has gone.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[Any]] = {}
        self.seen: dict[str, list[list[Any]]] = {}
        self.metadata: dict[str, list[dict[str, str | bytes]]] = {}
        self.asked = asyncio.Event()
        self.hanging = asyncio.Event()
        self.left = asyncio.Event()
        self.address = ""

    def will(self, rpc: str, *answers: Any) -> None:
        self.script[rpc] = list(answers)

    def attempts(self, rpc: str) -> int:
        return len(self.seen.get(rpc, []))

    def request(self, rpc: str) -> Any:
        """The only message of the only attempt at `rpc`."""
        ((message,),) = self.seen[rpc]
        return message

    async def _unary(self, rpc: str, messages: Iterable[Any], context: Any) -> Any:
        answer = self._next(rpc, messages, context)
        if isinstance(answer, Held):
            await answer.gate.wait()
            answer = answer.then
        if isinstance(answer, (Refusal, _Hang)):
            await self._act(answer, context)
        return answer

    async def _events(self, rpc: str, messages: Iterable[Any], context: Any) -> AsyncIterator[Any]:
        answer = self._next(rpc, messages, context)
        for event in answer if isinstance(answer, list) else [answer]:
            if isinstance(event, (Refusal, _Hang)):
                await self._act(event, context)
            yield event

    async def _read(self, rpc: str, request_iterator: Any) -> list[Any]:
        answer = self.script[rpc][0]
        if isinstance(answer, Refusal) and answer.unread:
            return [await anext(request_iterator)]
        return [each async for each in request_iterator]

    def _next(self, rpc: str, messages: Iterable[Any], context: Any) -> Any:
        self.seen.setdefault(rpc, []).append(list(messages))
        self.metadata.setdefault(rpc, []).append(dict(context.invocation_metadata()))
        self.asked.set()
        answers = self.script[rpc]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def _act(self, answer: Refusal | _Hang, context: Any) -> None:
        if isinstance(answer, Refusal):
            if answer.after_metadata:
                await context.send_initial_metadata((("begun", "yes"),))
            await context.abort(answer.code, answer.message, answer.trailing())
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def Preprocess(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        return await self._unary("Preprocess", [request], context)

    async def Infer(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("Infer", [request], context)

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("ListModels", [request], context)

    async def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("GetModel", [request], context)

    async def Estimate(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("Estimate", [request], context)

    async def PreprocessUpload(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary(
            "PreprocessUpload", await self._read("PreprocessUpload", request_iterator), context
        )

    async def InferUpload(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("InferUpload", await self._read("InferUpload", request_iterator), context)

    async def InferStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - as above
        async for event in self._events("InferStream", [request], context):
            yield event

    async def InferStreamUpload(  # noqa: N802 - as above
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[Any]:
        messages = await self._read("InferStreamUpload", request_iterator)
        async for event in self._events("InferStreamUpload", messages, context):
            yield event

    async def Verdict(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("Verdict", [request], context)

    async def WatchVerdict(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - as above
        async for event in self._events("WatchVerdict", [request], context):
            yield event

    async def SelfCheck(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("SelfCheck", [request], context)

    async def GetThreadPlan(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("GetThreadPlan", [request], context)

    async def SetThreadPlan(self, request: Any, context: Any) -> Any:  # noqa: N802 - as above
        return await self._unary("SetThreadPlan", [request], context)


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0", *, message_bytes: int = -1) -> AsyncIterator[ScriptedServer]:
    """A scripted server on `address` (by default a free port), stopped on leaving.

    `message_bytes` is the largest message it takes; -1: any.
    """
    scripted = ScriptedServer()
    options = [("grpc.max_receive_message_length", message_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    preprocessor_pb2_grpc.add_PreprocessorServicer_to_server(scripted, server)
    diagnostics_pb2_grpc.add_DiagnosticsServicer_to_server(scripted, server)
    port = server.add_insecure_port(address)
    scripted.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(grace=None)


def event(**kind: Any) -> preprocessor_pb2.InferStreamResponse:
    return preprocessor_pb2.InferStreamResponse(**kind)
