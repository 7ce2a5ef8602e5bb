"""Our own API, one method per RPC: receive, walk the path, respond.

Nothing is decided here. A call is accepted before its media is looked at, and an upload before its first
chunk, so that one which will be refused is refused before its caller has paid for sending media.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from multimodal.v1 import preprocessor_pb2 as pb
from multimodal.v1 import preprocessor_pb2_grpc

from sidecar.catalogue import Catalogue
from sidecar.deadline import Deadline
from sidecar.edge import receive, respond
from sidecar.edge.interceptors import Context
from sidecar.entry import Accepted, Verb
from sidecar.errors import CallCancelled
from sidecar.observe.metrics import Metrics
from sidecar.observe.timings import Stage
from sidecar.pipeline import Pipeline, Received, Walk

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A call that was let in, and how far it has come."""

    accepted: Accepted
    walk: Walk


class Preprocessor(preprocessor_pb2_grpc.PreprocessorServicer):
    """The service `multimodal.v1.Preprocessor`, over the path."""

    def __init__(
        self, pipeline: Pipeline, catalogue: Catalogue, metrics: Metrics, uploads: receive.UploadRoom
    ) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._metrics = metrics
        self._uploads = uploads

    async def Preprocess(self, request: pb.PreprocessRequest, context: Context) -> pb.PreprocessResponse:  # noqa: N802 - the contract's name
        with self._visit(Verb.PREPROCESS, request, context) as visit:
            return await self._preprocess(visit, self._inline(visit, request))

    async def PreprocessUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.PreprocessUploadRequest], context: Context
    ) -> pb.PreprocessResponse:
        request = await receive.first_part(request_iterator, self._uploads, pb.PreprocessRequest)
        with self._visit(Verb.PREPROCESS, request, context) as visit:
            received = await self._uploaded(visit, request, request_iterator, context)
            return await self._preprocess(visit, received)

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:  # noqa: N802 - the contract's name
        with self._visit(Verb.INFER, request, context) as visit:
            return await self._infer(visit, self._inline(visit, request))

    async def InferUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferUploadRequest], context: Context
    ) -> pb.InferResponse:
        request = await receive.first_part(request_iterator, self._uploads, pb.InferRequest)
        with self._visit(Verb.INFER, request, context) as visit:
            received = await self._uploaded(visit, request, request_iterator, context)
            return await self._infer(visit, received)

    async def InferStream(  # noqa: N802 - the contract's name
        self, request: pb.InferRequest, context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        with self._visit(Verb.INFER_STREAM, request, context) as visit:
            async with aclosing(self._stream(visit, self._inline(visit, request))) as events:
                async for event in events:
                    yield event

    async def InferStreamUpload(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.InferUploadRequest], context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        request = await receive.first_part(request_iterator, self._uploads, pb.InferRequest)
        with self._visit(Verb.INFER_STREAM, request, context) as visit:
            received = await self._uploaded(visit, request, request_iterator, context)
            async with aclosing(self._stream(visit, received)) as events:
                async for event in events:
                    yield event

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: ARG002, N802 - the contract's
        return pb.ListModelsResponse(models=[respond.model(model) for model in self._catalogue.all()])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: ARG002, N802 - the contract's
        return pb.GetModelResponse(model=respond.model(self._catalogue.get(request.model)))

    @contextmanager
    def _visit(self, verb: Verb, request: receive.RequestMessage, context: Context) -> Iterator[_Visit]:
        """Lets a call in, and observes it however it ends."""
        walk = Walk()
        asked = receive.asked(verb, request, Deadline.after(context.time_remaining()))
        accepted = self._pipeline.accept(asked)
        try:
            yield _Visit(accepted, walk)
        finally:
            times = walk.timeline.snapshot()
            self._metrics.stages(accepted.model.name, accepted.modality, walk.items, times)
            log.debug(
                "%s of model %s, request id %.64r: %d items, %.1f ms",
                verb.value,
                accepted.model.name,
                asked.request_id,
                asked.items,
                times.total_ns / 1e6,
            )

    def _inline(self, visit: _Visit, request: receive.RequestMessage) -> list[Received]:
        with visit.walk.timeline.measure(Stage.RECEIVE):
            received = receive.inline(request.media, self._pipeline.limits)
            # The message lives as long as the call; its media has been read and would be held twice.
            request.ClearField("media")
            return received

    async def _uploaded(
        self,
        visit: _Visit,
        request: receive.RequestMessage,
        parts: AsyncIterator[receive.UploadPart],
        context: Context,
    ) -> list[Received]:
        assembly = receive.Assembly(request.media, self._pipeline.limits, self._uploads)
        try:
            with visit.walk.timeline.measure(Stage.RECEIVE):
                received = await receive.collect(parts, assembly, self._uploads)
                # gRPC ends the stream of a caller who left as it ends one that is complete.
                if context.cancelled():
                    raise CallCancelled("the caller left before the upload was complete")
                return received
        finally:
            assembly.close()

    async def _preprocess(self, visit: _Visit, received: Sequence[Received]) -> pb.PreprocessResponse:
        await self._pipeline.preprocess(visit.accepted, received, visit.walk)
        with visit.walk.timeline.measure(Stage.RESPOND):
            response = respond.preprocess_response(visit.walk, visit.accepted.asked.request_id)
        response.times.CopyFrom(respond.stage_times(visit.walk.timeline.snapshot()))
        return response

    async def _infer(self, visit: _Visit, received: Sequence[Received]) -> pb.InferResponse:
        await self._pipeline.infer(visit.accepted, received, visit.walk)
        with visit.walk.timeline.measure(Stage.RESPOND):
            response = respond.infer_response(visit.walk, visit.accepted.asked.request_id)
        response.times.CopyFrom(respond.stage_times(visit.walk.timeline.snapshot()))
        return response

    async def _stream(
        self, visit: _Visit, received: Sequence[Received]
    ) -> AsyncGenerator[pb.InferStreamResponse, None]:
        """The events of a streamed answer."""
        walk, request_id = visit.walk, visit.accepted.asked.request_id
        async with aclosing(self._pipeline.infer_stream(visit.accepted, received, walk)) as happenings:
            async for answer in happenings:
                with walk.timeline.measure(Stage.RESPOND):
                    event = (
                        respond.prepared(walk.items, request_id)
                        if answer is None
                        else respond.stream_outputs(answer, walk.responses - 1)
                    )
                yield event
        yield respond.finished(walk, request_id)
