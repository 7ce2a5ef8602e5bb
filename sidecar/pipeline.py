"""THE PATH: probe -> admit -> decode -> transform -> pack -> deliver, as one reads it aloud.

Domain values in, domain values out; what arrives before and leaves after is the edge's. An item that
fails keeps its error and leaves its neighbours alone, unless the request is all or nothing. Errors
about the request as a whole are raised: before anything is spent wherever that can be known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from sidecar.catalogue import Catalogue, ModelState, ServedModel
from sidecar.deadline import Deadline
from sidecar.errors import (
    CapacityError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    SidecarError,
    UpstreamError,
    UpstreamUnavailable,
    WrongItemCount,
    WrongModality,
    WrongStream,
)
from sidecar.media import Cost, MediaInfo, Source, Tensor
from sidecar.observe.timings import Stage, Timeline, Timings
from sidecar.stages.admit.cost import predict
from sidecar.stages.admit.gate import Gate, Places
from sidecar.stages.admit.label import check_label
from sidecar.stages.admit.limits import Limits
from sidecar.stages.deliver.batching import Batch, batches, rows_of
from sidecar.stages.deliver.bindings import Binding, Grouping
from sidecar.stages.deliver.inputs import check_inputs, check_outputs
from sidecar.stages.deliver.parameters import check_parameters
from sidecar.stages.deliver.upstream import Answer, Call, ParameterValue, Upstream
from sidecar.workers.pool import Workers
from sidecar.workers.worker import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks, out of transport. `inputs` carry no batch axis where items are grouped EACH."""

    model: str
    sources: tuple[Source, ...]
    deadline: Deadline
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[str, ...] = ()
    all_or_nothing: bool = False
    request_id: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)


@dataclass(slots=True)
class Item:
    """One media item on its way: filled in from left to right, or given a problem."""

    source: Source
    timeline: Timeline
    info: MediaInfo | None = None
    cost: Cost | None = None
    cpu_ms: float = 0.0
    tensors: tuple[Tensor, ...] = ()
    output_bytes: int = 0
    problem: SidecarError | None = None
    times: Timings | None = None
    ready_ns: int = 0

    @property
    def problem_reason(self) -> str:
        """The problem's name, empty where there is none."""
        return self.problem.reason if self.problem else ""

    def finish(self) -> None:
        """Stops the item's clock."""
        self.times = self.timeline.snapshot()
        self.ready_ns = self.timeline.start_ns + self.times.total_ns


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request: its items, and the model's outputs where they belong to no one item."""

    items: Sequence[Item]
    outputs: tuple[Tensor, ...] = ()
    model: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was let in: its model, and room in the queue for its items."""

    model: ServedModel
    places: Places


class Pipeline:
    """The path, over the parts that the composition root gives it."""

    def __init__(
        self, catalogue: Catalogue, limits: Limits, gate: Gate, workers: Workers, upstream: Upstream | None
    ) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._gate = gate
        self._workers = workers
        self._upstream = upstream

    @property
    def limits(self) -> Limits:
        return self._limits

    @contextmanager
    def enter(
        self, model_name: str, item_count: int, *, delivers: bool, streams: bool = False
    ) -> Iterator[Entry]:
        """Lets a request in, or refuses it before anything is spent on it.

        `delivers` says that the model server will be asked, `streams` that its answer may be a stream.
        Raises UnknownModel, WrongItemCount, WrongModality, WrongStream, Overloaded, or what keeps the
        model from being asked.
        """
        model = self._catalogue.get(model_name)
        _check_count(model, item_count, self._limits, delivers=delivers, streams=streams)
        _check_ready(model, self._upstream, delivers=delivers, streams=streams)
        places = self._gate.enter(item_count)
        try:
            yield Entry(model, places)
        finally:
            places.leave()

    async def preprocess(self, entry: Entry, request: Request, timeline: Timeline) -> Reply:
        """Media to tensors."""
        return Reply(await self._prepare(entry, request, timeline))

    async def infer(self, entry: Entry, request: Request, timeline: Timeline) -> Reply:
        """Media to the model's outputs: of each item where items are inferences of their own, else of all."""
        plain = _check_plain(entry.model, request)
        items = await self._prepare(entry, request, timeline)
        with timeline.measure(Stage.DELIVER):
            return await self._deliver(entry.model, request, items, plain)

    async def infer_stream(
        self, entry: Entry, request: Request, timeline: Timeline
    ) -> AsyncGenerator[Sequence[Item] | Answer, None]:
        """Media to a stream: the prepared items once, then each of the model's responses."""
        plain = _check_plain(entry.model, request)
        items = await self._prepare(entry, request, timeline)
        for item in items:
            if item.problem is not None:
                raise item.problem
        yield items
        binding = _bound(entry.model)
        (batch,) = batches(binding, [item.tensors for item in items], plain)
        call = self._call(entry.model, request, batch)
        handed_over_ns = time.monotonic_ns()
        try:
            with self._watching(entry.model):
                async with aclosing(self._model_server().stream(call, request.deadline)) as answers:
                    async for answer in answers:
                        (outputs,) = rows_of(binding, batch, answer)
                        yield Answer(outputs, answer.model, answer.version)
        finally:
            timeline.add(Stage.DELIVER, time.monotonic_ns() - handed_over_ns)

    async def _prepare(self, entry: Entry, request: Request, timeline: Timeline) -> Sequence[Item]:
        """Takes all items up to pack, side by side; the call's own times are those of the last ready."""
        items = [Item(source, Timeline()) for source in request.sources]
        fails_all = request.all_or_nothing or entry.model.grouping is Grouping.TOGETHER
        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(self._prepare_or_blame(item, entry, request, fails_all=fails_all))
        except* SidecarError as errors:
            raise _first(errors) from None
        if items:
            timeline.include(max(items, key=lambda item: item.ready_ns).timeline.spent)
        return items

    async def _prepare_or_blame(self, item: Item, entry: Entry, request: Request, *, fails_all: bool) -> None:
        """Prepares an item, or leaves it with its problem; raises what concerns the whole request."""
        try:
            await self._prepare_item(item, entry, request.deadline)
        except (DeadlineExceeded, CapacityError):
            raise
        except SidecarError as problem:
            item.problem = problem
        except Exception:
            log.exception("preparing %s for model %s failed", item.source.label, entry.model.name)
            item.problem = InternalError(f"{item.source.label} could not be prepared: a fault of the server")
        item.finish()
        if fails_all and item.problem is not None:
            raise item.problem

    async def _prepare_item(self, item: Item, entry: Entry, deadline: Deadline) -> None:
        model = entry.model
        assert model.recipe is not None  # noqa: S101 - a model without one was refused at the door
        with item.timeline.measure(Stage.PROBE):
            item.info = await self._workers.probe(item.source)
        check_label(item.source, item.info)
        _check_modality(model, item.source, item.info)
        self._limits.check(item.source, item.info)
        item.output_bytes = model.recipe.output_bytes(item.info)
        item.cost = predict(item.info)
        with item.timeline.measure(Stage.ADMIT):
            ticket = await entry.places.ticket(item.info.modality, item.cost, deadline)
        target = replace(
            model.recipe.decode_target, max_decoded_bytes=self._limits.max_decoded_bytes(item.info)
        )
        job = Job(item.source, item.info, model.recipe, target, model.data_types, deadline)
        done = await self._workers.run(job, ticket)
        item.timeline.include(done.spent)
        item.tensors, item.cpu_ms = done.tensors, done.cpu_ms
        item.output_bytes = sum(tensor.nbytes for tensor in done.tensors)

    async def _deliver(
        self, model: ServedModel, request: Request, items: Sequence[Item], plain: tuple[Tensor, ...]
    ) -> Reply:
        """Asks the model for every batch that the good items make; a batch that fails blames its items."""
        binding = _bound(model)
        good = [item for item in items if item.problem is None]
        if items and not good:
            return Reply(items)
        each = binding.grouping is Grouping.EACH and bool(items)
        answers: list[Answer] = []
        whole: tuple[Tensor, ...] = ()

        async def ask(batch: Batch) -> None:
            nonlocal whole
            batched = [good[place] for place in batch.rows]
            try:
                with self._watching(model):
                    answer = await self._model_server().infer(
                        self._call(model, request, batch), request.deadline
                    )
                    rows = rows_of(binding, batch, answer)
            except UpstreamError as problem:
                for item in batched:
                    item.tensors, item.problem = (), problem
                if not each:
                    raise
                return
            answers.append(answer)
            if not each:
                (whole,) = rows
            for item, outputs in zip(batched, rows if each else [()] * len(batched), strict=True):
                item.tensors = outputs

        await asyncio.gather(*map(ask, batches(binding, [item.tensors for item in good], plain)))
        failed = [item.problem for item in good if item.problem is not None]
        if failed and (request.all_or_nothing or len(failed) == len(good)):
            raise failed[0]
        return Reply(items, whole, answers[0].model, answers[0].version)

    def _call(self, model: ServedModel, request: Request, batch: Batch) -> Call:
        request.deadline.check(Stage.DELIVER.value)
        return Call(
            model=model.config.upstream or model.name,
            version=model.config.version,
            inputs=batch.inputs,
            outputs=request.outputs,
            request_id=request.request_id,
            parameters=request.parameters,
        )

    def _model_server(self) -> Upstream:
        assert self._upstream is not None  # noqa: S101 - checked at the door
        return self._upstream

    @contextmanager
    def _watching(self, model: ServedModel) -> Iterator[None]:
        """Has a model looked at anew when its server failed: it may come back another one."""
        try:
            yield
        except UpstreamError:
            self._catalogue.suspect(model.name)
            raise


def _bound(model: ServedModel) -> Binding:
    assert model.binding is not None  # noqa: S101 - checked at the door
    return model.binding


def _check_plain(model: ServedModel, request: Request) -> tuple[Tensor, ...]:
    """The caller's plain inputs in the model's order, refused before any media is worked on."""
    check_parameters(request.parameters)
    binding = _bound(model)
    if model.signature is not None:
        check_outputs(request.outputs, model.signature.outputs)
    return check_inputs(request.inputs, binding.plain, binding.made)


def _first(errors: BaseExceptionGroup[SidecarError]) -> SidecarError:
    """The first leaf of a group of errors."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SidecarError)  # noqa: S101 - the group was split by that type
    return error


def _check_count(model: ServedModel, count: int, limits: Limits, *, delivers: bool, streams: bool) -> None:
    if model.recipe is None:
        if count or not delivers:
            raise WrongModality(
                f"model {model.name!r} takes no media, and the request brings {count} items: send `inputs` only",
                model=model.name,
            )
        return
    most = model.config.max_items or limits.items
    if streams and model.grouping is Grouping.EACH:
        most = 1
    if not 1 <= count <= most:
        wanted = "exactly 1 media item" if most == 1 else f"1 to {most} media items"
        raise WrongItemCount(
            f"model {model.name!r} takes {wanted} in this call, and the request brings {count}",
            field="media",
            found=count,
            allowed=most,
        )


def _check_ready(model: ServedModel, upstream: Upstream | None, *, delivers: bool, streams: bool) -> None:
    if model.state is ModelState.MISMATCHED and model.problem is not None:
        raise model.problem
    if not delivers:
        return
    if upstream is None:
        raise InvalidRequest(
            "no model server is configured here, only Preprocess works: set `triton.address`", field="model"
        )
    if model.signature is None or model.binding is None:
        raise model.problem or UpstreamUnavailable(
            f"model {model.name!r} is not reachable yet", model=model.name
        )
    if model.signature.decoupled and not streams:
        raise WrongStream(
            f"model {model.name!r} is decoupled (it may answer any number of times): ask it through InferStream",
            model=model.name,
        )


def _check_modality(model: ServedModel, source: Source, info: MediaInfo) -> None:
    assert model.recipe is not None  # noqa: S101 - a model without one was refused at the door
    if info.modality is not model.recipe.modality:
        raise WrongModality(
            f"{source.label} is {info.modality.value} ({info.format}) and model {model.name!r} takes "
            f"{model.recipe.modality.value}",
            model=model.name,
            found=info.modality.value,
        )
