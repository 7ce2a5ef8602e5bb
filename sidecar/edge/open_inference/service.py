"""The service `inference.GRPCInferenceService`: routed by model, preprocessed or passed on.

    a model with a recipe, and encoded files among its inputs    the path, and the answer as Triton would give it
    a model with a recipe, and the tensors themselves            passed on
    any other model, and calls about the server                  passed on: the same bytes there and back

What is passed on is not parsed, but for the model that it names, and ends as the model server ends it: its status, its
words, its trailers. Nothing is decided here but the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from sidecar.catalogue import Catalogue, ModelState, ServedModel
from sidecar.deadline import Deadline
from sidecar.edge import respond
from sidecar.edge.around import Around, Context, failure
from sidecar.edge.callers.caller import CALLER, HEADER
from sidecar.edge.open_inference import messages
from sidecar.edge.open_inference.envelope import Envelope
from sidecar.edge.open_inference.messages import Given, Request, Share
from sidecar.edge.open_inference.regions import STATUS, Regions, own
from sidecar.edge.tallies import Tallies
from sidecar.edge.visits import Visits
from sidecar.entry import Verb
from sidecar.errors import (
    InvalidRequest,
    MediaTooLarge,
    SettingsError,
    SidecarError,
    UpstreamFailed,
)
from sidecar.media import Source, Tensor
from sidecar.observe.timings import Stage
from sidecar.pipeline import Pipeline
from sidecar.stages.deliver.passing import Passing, Said
from sidecar.stages.deliver.unary import Metadata
from sidecar.walk import Received, side_by_side

T = TypeVar("T")

SERVICE: Final = "inference.GRPCInferenceService"

# Calls about the server, and what closes them.
_OF_THE_SERVER: Final[Mapping[str, str]] = {
    "ServerLive": "",
    "ServerReady": "",
    "ServerMetadata": "",
    "RepositoryIndex": "repository",
    "RepositoryModelLoad": "repository",
    "RepositoryModelUnload": "repository",
    STATUS: "shared_memory",
    "SystemSharedMemoryRegister": "shared_memory",
    "SystemSharedMemoryUnregister": "shared_memory",
    "CudaSharedMemoryStatus": "shared_memory",
    "CudaSharedMemoryRegister": "shared_memory",
    "CudaSharedMemoryUnregister": "shared_memory",
    "TraceSetting": "trace",
    "LogSettings": "log",
}
_OF_A_MODEL: Final[Mapping[str, str]] = {
    "ModelReady": "",
    "ModelMetadata": "",
    "ModelConfig": "",
    "ModelStatistics": "statistics",
}
# Kinds by which models could be named, or listed, that are not served.
_OF_ALL_MODELS: Final = frozenset({"repository", "trace"})
_KINDS: Final = tuple(sorted({*_OF_THE_SERVER.values(), *_OF_A_MODEL.values()} - {""}))
# Metadata that are the connection's own, or gRPC's; and one by which Triton 2.51 dies (see deliver/faults.py).
_OWN_HEADERS: Final = frozenset({"user-agent", "content-type", "te", "host", "accept-encoding"})
ERRORS_AS_STATUS: Final = "triton_grpc_error"
"""By this header a client wants the first error of a stream as the stream's status."""


@dataclass(frozen=True, slots=True)
class OpenInferenceConfig:
    """`enabled`: whether Triton's own API is served. `models`: "all" passes on whatever model is asked, "served" those
    of the settings alone. `closed`: kinds of calls that are refused: log, repository, shared_memory, statistics, trace.
    """

    enabled: bool = True
    models: Literal["all", "served"] = "all"
    closed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.closed:
            if kind not in _KINDS:
                raise SettingsError(
                    f"`open_inference.closed` has {kind!r}: allowed are {', '.join(_KINDS)}",
                    key="open_inference.closed",
                    value=kind,
                    allowed=", ".join(_KINDS),
                )


class OpenInference:
    """Over the path, and over the connection to the model server; `passing` is None where there is none."""

    def __init__(
        self,
        config: OpenInferenceConfig,
        *,
        catalogue: Catalogue,
        pipeline: Pipeline,
        visits: Visits,
        tallies: Tallies,
        passing: Passing | None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._pipeline = pipeline
        self._visits = visits
        self._tallies = tallies
        self._passing = passing

    def handlers(self, around: Around) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """A handler a method, bytes in and bytes out."""
        calls: dict[str, Callable[[bytes, Context], Awaitable[bytes]]] = {"ModelInfer": self._infer}
        calls |= {method: partial(self._of_the_server, method) for method in _OF_THE_SERVER}
        calls |= {method: partial(self._of_a_model, method) for method in _OF_A_MODEL}
        calls["SystemSharedMemoryRegister"] = self._register
        calls["SystemSharedMemoryUnregister"] = self._unregister
        return {method: _handler(around, method, call) for method, call in calls.items()}

    @property
    def passing(self) -> Passing:
        """Raises InvalidRequest where there is no model server."""
        if self._passing is None:
            raise InvalidRequest("no model server is configured here: set `triton.address`", field="")
        return self._passing

    def served(self, name: str) -> ServedModel | None:
        """The model of that name in the settings; None for one that is only the model server's.

        Raises UnknownModel where those are not passed on.
        """
        everything = self._config.models == "all"
        return self._catalogue.find(name) if everything else self._catalogue.get(name)

    def aimed(self, envelope: Envelope, served: ServedModel | None) -> bytes:
        """A message about a model by the model server's name for it."""
        if served is None or (served.upstream == served.name and not served.config.version):
            return envelope.raw
        return envelope.aimed(served.upstream, served.config.version)

    # --- calls about the server, and about models ---

    def _check_open(self, kind: str) -> None:
        if kind in self._config.closed or (self._config.models == "served" and kind in _OF_ALL_MODELS):
            raise InvalidRequest(
                f"calls of the kind {kind} are closed here (`open_inference.closed`, `open_inference.models`)",
                field="",
            )

    async def _of_the_server(self, method: str, raw: bytes, context: Context) -> bytes:
        self._check_open(_OF_THE_SERVER[method])
        told = await self._pass(method, raw, context)
        return self._without_own(told) if method == STATUS else told

    def _without_own(self, told: bytes) -> bytes:
        """The status of shared memory without sidecars' arenas: clients count the regions that they find."""
        if self.passing.own.encode() not in told:
            return told
        message = service_pb2.SystemSharedMemoryStatusResponse.FromString(told)
        for name in [name for name in message.regions if name.startswith(self.passing.own)]:
            del message.regions[name]
        laid: bytes = message.SerializeToString()
        return laid

    async def _register(self, raw: bytes, context: Context) -> bytes:
        """As it came, but that no arena is meant by it."""
        self._check_open("shared_memory")
        asked = _read(service_pb2.SystemSharedMemoryRegisterRequest, raw)
        if asked.name.startswith(self.passing.own) or asked.key.lstrip("/").startswith(self.passing.own):
            raise own(asked.name)
        return await self._pass("SystemSharedMemoryRegister", raw, context)

    async def _unregister(self, raw: bytes, context: Context) -> bytes:
        """As it came, but that all regions do not include arenas: they are unregistered one by one."""
        self._check_open("shared_memory")
        kind = service_pb2.SystemSharedMemoryUnregisterRequest
        name = _read(kind, raw).name
        if name.startswith(self.passing.own):
            raise own(name)
        if name:
            return await self._pass("SystemSharedMemoryUnregister", raw, context)
        told = await self._pass(STATUS, b"", context)
        regions = service_pb2.SystemSharedMemoryStatusResponse.FromString(told).regions
        for each in regions:
            if not each.startswith(self.passing.own):
                await self._pass("SystemSharedMemoryUnregister", kind(name=each).SerializeToString(), context)
        return b""

    async def _of_a_model(self, method: str, raw: bytes, context: Context) -> bytes:
        self._check_open(_OF_A_MODEL[method])
        envelope = Envelope.of(raw)
        name = envelope.model()
        # Without a name all models are meant.
        served = self.served(name) if name or method != "ModelStatistics" else None
        if method == "ModelReady" and served is not None and served.state is not ModelState.READY:
            not_ready: bytes = service_pb2.ModelReadyResponse(ready=False).SerializeToString()
            return not_ready
        told = await self._pass(method, self.aimed(envelope, served), context)
        try:
            return self._as_served(method, told, name, served)
        except DecodeError as error:
            raise UpstreamFailed(f"the model server's {method} of {name!r} cannot be read") from error

    def _as_served(self, method: str, told: bytes, name: str, served: ServedModel | None) -> bytes:
        """What the model server tells of a model, as it is here."""
        if method == "ModelStatistics":
            models = list(self._catalogue.all()) if not name else [served] if served is not None else []
            prepared = [model for model in models if model.recipe is not None]
            listed = {model.upstream for model in models} if self._config.models == "served" else None
            return (
                messages.statistics(told, served, prepared, self._tallies.all(), listed) if models else told
            )
        if served is None or method == "ModelReady":
            return told
        return messages.metadata(told, served) if method == "ModelMetadata" else messages.config(told, served)

    # --- inference ---

    async def _infer(self, raw: bytes, context: Context) -> bytes:
        envelope = Envelope.of(raw)
        served = self.served(envelope.model())
        found = self.media_of(envelope, served)
        if found is not None and served is not None:
            return await self.prepared(*found, served, context)
        answer = await self._pass("ModelInfer", self.aimed(envelope, served), context)
        if served is not None and served.upstream != served.name:
            return Envelope.of(answer).called(served.name)
        return answer

    def media_of(self, envelope: Envelope, served: ServedModel | None) -> tuple[Request, Given] | None:
        """A request with encoded files, and these; None for one that is to be passed on.

        Raises what is wrong with it, and InvalidRequest for one that may not be passed on.
        """
        if served is None or served.recipe is None:
            self._check_passable(envelope)
            return None
        request = messages.read(envelope)
        media = request.media(served)
        if media is None:
            self._check_passable(envelope)
            request.check_passable(served)
            return None
        request.check_version(served)
        return request, media

    def _check_passable(self, envelope: Envelope) -> None:
        if envelope.speaks_of(self.passing.own):
            raise own(self.passing.own)

    async def prepared(
        self,
        request: Request,
        media: Given,
        served: ServedModel,
        context: Context,
        *,
        final: bool | None = None,
    ) -> bytes:
        """A request with encoded files walks the path; the answer is a serialised ModelInferResponse."""
        deadline, headers = Deadline.after(context.time_remaining()), onward(context)
        request, media = await self.fetched(request, media, deadline, headers)
        shares = messages.shares(request, media, served, self._pipeline.limits(served.name))
        with ExitStack() as around:
            visits = [
                around.enter_context(
                    self._visits.visit(
                        Verb.INFER,
                        served.name,
                        request.request_id,
                        partial(share.ask, request, Verb.INFER),
                        context,
                    )
                )
                for share in shares
            ]
            await side_by_side(
                [
                    self._pipeline.infer(visit.accepted, self.received(share, served), visit.walk)
                    for share, visit in zip(shares, visits, strict=True)
                ]
            )
            walk = visits[0].walk
            outputs = messages.outputs_of([visit.walk for visit in visits], visits[0].accepted.model)
            with walk.timeline.measure(Stage.RESPOND):
                await self.written(request, outputs, deadline, headers)
                reply = messages.reply(request, outputs, walk.version, final=final)
            return reply.stamped(walk.timeline.snapshot(), walk.model_times)

    async def fetched(
        self, request: Request, media: Given, deadline: Deadline, headers: Metadata
    ) -> tuple[Request, Given]:
        """The same with the contents of inputs that lie in shared memory."""
        placed = [given.place for given in request.inputs if given.place is not None]
        if placed or request.places:
            self._check_open("shared_memory")
        if not placed:
            return request, media
        found = sum(place.nbytes for place in placed)
        most = self._pipeline.limits(request.model).upload_bytes
        if found > most:
            raise MediaTooLarge(
                f"the request's inputs in shared memory are {found} bytes, and the limit `limits.upload_bytes` is "
                f"{most}: send fewer at once, or raise the limit",
                limit="limits.upload_bytes",
                allowed=most,
                found=found,
            )
        regions, inputs, files = Regions(self.passing), [], media
        for given in request.inputs:
            here = given
            if given.place is not None:
                data = await regions.read(given.place, deadline, headers)
                here = replace(given, data=data, place=None)
            inputs.append(here)
            files = here if given is media else files
        return replace(request, inputs=tuple(inputs)), files

    async def written(
        self, request: Request, outputs: Sequence[Tensor], deadline: Deadline, headers: Metadata
    ) -> None:
        """Writes the outputs that have places in shared memory there."""
        for output in outputs:
            if (place := request.places.get(output.name)) is not None:
                data = memoryview(output.data).cast("B")
                await Regions(self.passing).write(place, data, deadline, headers)

    def received(self, share: Share, served: ServedModel) -> Sequence[Received]:
        """A share's media, measured against the limits."""
        found: list[Received] = []
        for place, data in enumerate(share.media):
            label = f"item {place}"
            try:
                self._pipeline.limits(served.name).check_size(len(data), label)
            except MediaTooLarge as problem:
                found.append(problem)
            else:
                found.append(Source(data, label=label))
        return found

    async def _pass(self, method: str, raw: bytes, context: Context) -> bytes:
        """Hands a call on, and its trailers back."""
        deadline = Deadline.after(context.time_remaining())
        passed = await self.passing.unary(method, raw, deadline, onward(context))
        if passed.trailers:
            context.set_trailing_metadata(tuple(passed.trailers))
        return passed.message


def _read(kind: Any, raw: bytes) -> Any:  # noqa: ANN401 - any of the protocol's messages
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequest(f"the message is no {kind.DESCRIPTOR.name}", field="") from error


def onward(context: Context) -> Metadata:
    """A call's metadata, as far as it is the caller's own, and without the token that was meant for us."""
    caller = CALLER.get()
    ours = _OWN_HEADERS | {HEADER} if caller is not None and caller.by_token else _OWN_HEADERS
    return [
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if key not in ours and key != ERRORS_AS_STATUS and not key.startswith((":", "grpc-"))
    ]


def _handler(
    around: Around, method: str, call: Callable[[bytes, Context], Awaitable[bytes]]
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary method's handler: counted, drained, and ended as the model server said, or by our own table."""

    async def handle(raw: bytes, context: Context) -> bytes:
        return await carried_out(around, method, context, partial(call, raw, context))

    return grpc.unary_unary_rpc_method_handler(handle, None, None)


async def carried_out(around: Around, method: str, context: Context, work: Callable[[], Awaitable[T]]) -> T:
    """Does a call's work, counted and drained; what it raises ends the call as `abort` does."""
    ended: Said | SidecarError
    try:
        with around.entered(method, context):
            return await work()
    except Said as said:
        ended = said
    except Exception as error:  # noqa: BLE001 - told as what it is
        ended = failure(method, error)
    # Out of the handler, as in around.py.
    return await abort(context, ended)


async def abort(context: Context, ended: Said | SidecarError) -> NoReturn:
    """Ends a call as the model server did, or by our own table."""
    if isinstance(ended, Said):
        trailers = tuple((key, value) for key, value in ended.trailers if not key.startswith("grpc-"))
        await context.abort(ended.status, ended.words, trailers)
    else:
        await respond.abort(context, ended)
    raise AssertionError("abort raises")
