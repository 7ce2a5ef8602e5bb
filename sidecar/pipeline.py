"""THE PATH: probe -> admit -> decode -> transform -> pack -> deliver, as one reads it aloud.

Domain values in, domain values out; what arrives before and leaves after is the edge's. An item that
fails keeps its error and leaves its neighbours alone, unless the call fails as one. Errors about the
call as a whole are raised: before anything is spent wherever that can be known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sidecar.arena.arena import Arena
from sidecar.arena.layout import lay_out
from sidecar.arena.lease import Lease
from sidecar.catalogue import Catalogue, ServedModel
from sidecar.entry import Accepted, Asked, Delivery, accept
from sidecar.errors import (
    CapacityError,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    SidecarError,
    UpstreamError,
    WrongModality,
)
from sidecar.media import Cost, DecodeTarget, MediaInfo, Modality, Source, Tensor
from sidecar.observe.timings import Stage, Timeline, Timings
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.cost import predict
from sidecar.stages.admit.gate import Gate, Places
from sidecar.stages.admit.label import check_label
from sidecar.stages.admit.limits import Limits
from sidecar.stages.deliver.batching import Batch, batches, rows_of
from sidecar.stages.deliver.bindings import Grouping
from sidecar.stages.deliver.upstream import Answer, Call, Slot, Upstream
from sidecar.workers.pool import Workers
from sidecar.workers.prober import Prober
from sidecar.workers.worker import Done, Job, Outlet

log = logging.getLogger(__name__)

# One media item as it was received: its bytes, or why there are none.
Received = Source | SidecarError


@dataclass(slots=True)
class Item:
    """One media item on its way: filled in from left to right, or given a problem.

    `target` is what decode is to leave; `tokens` the placeholder tokens of the prompt, where that is known;
    `sizes` foretells the bytes of each output; `inlet` holds its bytes in the arena, where workers are
    processes; `outlets` is where its outputs go, in `berth`.
    """

    timeline: Timeline = field(default_factory=Timeline)
    source: Source | None = None
    info: MediaInfo | None = None
    target: DecodeTarget | None = None
    tokens: int | None = None
    cost: Cost | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    inlet: Lease | None = None
    berth: Lease | None = None
    outlets: Mapping[str, Outlet] = field(default_factory=dict)
    cpu_ms: float = 0.0
    tensors: tuple[Tensor, ...] = ()
    problem: SidecarError | None = None
    times: Timings | None = None
    ready_ns: int = 0

    @property
    def output_bytes(self) -> int:
        """Of all outputs together, foretold."""
        return sum(self.sizes.values())

    @property
    def problem_reason(self) -> str:
        """The problem's name, empty where there is none."""
        return self.problem.reason if self.problem else ""

    def finish(self) -> None:
        """Stops the item's clock."""
        self.times = self.timeline.snapshot()
        self.ready_ns = self.timeline.start_ns + self.times.total_ns


@dataclass(slots=True)
class Walk:
    """A call on its way: its clock, its items, and what came back. What it holds is true at any moment,
    so that a call that fails can be observed as well as one that succeeds.

    `output_bytes` foretells the memory of all items' tensors; `slots` is what the call holds of the arena,
    until `release`; `outputs` are the model's where they belong to no one item; `model` and `version` say who answered;
    `first_output_ns` is the time from hand-over to the first response of a stream, 0 until there is one.
    """

    timeline: Timeline = field(default_factory=Timeline)
    items: list[Item] = field(default_factory=list)
    output_bytes: int = 0
    slots: list[Slot] = field(default_factory=list)
    outputs: tuple[Tensor, ...] = ()
    model: str = ""
    version: str = ""
    responses: int = 0
    first_output_ns: int = 0

    def release(self) -> None:
        """Lets go of the arena; the call's tensors are not to be read after."""
        while self.slots:
            self.slots.pop().release()


class Pipeline:
    """The path, over the parts that the composition root gives it."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        limits: Limits,
        gate: Gate,
        prober: Prober,
        arena: Arena,
        workers: Workers,
        upstream: Upstream | None,
    ) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._gate = gate
        self._prober = prober
        self._arena = arena
        self._workers = workers
        self._upstream = upstream
        self._delivering_bytes = 0

    @property
    def limits(self) -> Limits:
        return self._limits

    def accept(self, asked: Asked) -> Accepted:
        """Lets a call begin, or refuses it before anything is spent on it; see `entry.accept`.

        Raises UnknownModel and Overloaded besides.
        """
        accepted = accept(
            asked,
            self._catalogue.get(asked.model),
            has_model_server=self._upstream is not None,
            limits=self._limits,
        )
        if accepted.modality is not None:
            self._gate.check(accepted.modality, asked.items)
        return accepted

    async def preprocess(self, accepted: Accepted, received: Sequence[Received], walk: Walk) -> None:
        """Media to tensors."""
        await self._prepare(accepted, received, walk)

    async def infer(self, accepted: Accepted, received: Sequence[Received], walk: Walk) -> None:
        """Media to the model's outputs: of each item where items are inferences of their own, else of all."""
        await self._prepare(accepted, received, walk)
        with walk.timeline.measure(Stage.DELIVER):
            await self._deliver(accepted, walk)

    async def infer_stream(
        self, accepted: Accepted, received: Sequence[Received], walk: Walk
    ) -> AsyncGenerator[Answer | None, None]:
        """Media to a stream: None once, when the items are prepared, then each of the model's responses."""
        await self._prepare(accepted, received, walk)
        for item in walk.items:
            if item.problem is not None:
                raise item.problem.again()
        yield None
        delivery = _delivery(accepted)
        (batch,) = batches(delivery.binding, [item.tensors for item in walk.items], delivery.plain)
        call = _call(accepted, batch, walk)
        with self._watching(accepted.model), self._under_way(call):
            async with aclosing(self._model_server().stream(call, accepted.asked.deadline)) as answers:
                while True:
                    # Only the wait for the model server counts as deliver, not our reader's own pace.
                    with walk.timeline.measure(Stage.DELIVER):
                        answer = await anext(answers, None)
                    if answer is None:
                        return
                    walk.first_output_ns = walk.first_output_ns or walk.timeline.spent[Stage.DELIVER]
                    walk.responses += 1
                    walk.model, walk.version = answer.model, answer.version
                    (outputs,) = rows_of(delivery.binding, batch, answer)
                    yield replace(answer, outputs=outputs)
                    for slot in answer.slots:
                        slot.release()

    async def _prepare(self, accepted: Accepted, received: Sequence[Received], walk: Walk) -> None:
        """Takes all items up to pack, side by side; the call's own times are those of the last ready."""
        if not received or accepted.modality is None:
            return
        places = self._gate.enter(accepted.modality, len(received))
        try:
            walk.items[:] = [Item() for _ in received]
            await _side_by_side(
                [
                    self._or_blame(
                        index, accepted, walk, partial(self._measure, item, one, accepted, places, walk)
                    )
                    for index, (item, one) in enumerate(zip(walk.items, received, strict=True))
                ]
            )
            await self._make_room(accepted, walk)
            await _side_by_side(
                [
                    self._or_blame(index, accepted, walk, partial(self._work, item, accepted, places, walk))
                    for index, item in enumerate(walk.items)
                    if item.problem is None
                ]
            )
        finally:
            places.leave()
            for item in walk.items:
                if item.times is None:
                    item.finish()
            walk.timeline.include(max(walk.items, key=lambda item: item.ready_ns).timeline.spent)

    async def _or_blame(
        self, index: int, accepted: Accepted, walk: Walk, step: Callable[[], Awaitable[None]]
    ) -> None:
        """Takes a step of an item, or leaves it with its problem; raises what concerns the whole call."""
        item = walk.items[index]
        try:
            await step()
        except (DeadlineExceeded, CapacityError):
            raise
        except SidecarError as problem:
            item.problem = problem.bare()
        except Exception:
            log.exception("preparing item %d for model %s failed", index, accepted.model.name)
            item.problem = InternalError(f"item {index} could not be prepared: a fault of the server")
        if item.problem is not None:
            item.finish()
            item.problem.facts.setdefault("item", str(index))
            if accepted.fails_as_one:
                raise item.problem.again()

    async def _measure(
        self, item: Item, received: Received, accepted: Accepted, places: Places, walk: Walk
    ) -> None:
        """What an item is, what it will cost and how much it will leave; or why it is not let in."""
        try:
            if isinstance(received, SidecarError):
                raise received
            recipe = _recipe(accepted)
            self._workers.check(received)
            item.source = received
            item.info, probe_ns = await self._prober.probe(received)
            item.timeline.add(Stage.PROBE, probe_ns)
            check_label(received, item.info)
            _check_modality(accepted.model, recipe.modality, received, item.info)
            item.target = recipe.decode_target(item.info)
            self._limits.check(received, item.info, item.target)
            item.cost = predict(item.info, item.target)
            item.tokens = recipe.tokens(item.info)
            sizes = recipe.output_bytes(item.info, accepted.data_types)
            self._limits.check_output(received, walk.output_bytes, sum(sizes.values()))
            item.sizes = sizes
            self._arena.check_fits([max(1, item.output_bytes), *self._inlets([item])], received.label)
            walk.output_bytes += item.output_bytes
        except SidecarError:
            places.forgo()
            raise

    def _inlets(self, items: Sequence[Item]) -> list[int]:
        """The bytes of the slots for what was received, where workers need it there."""
        return [len(_source(item).data) for item in items] if self._workers.takes_copies else []

    async def _make_room(self, accepted: Accepted, walk: Walk) -> None:
        """Takes all that the call needs of the arena, at once, so that no two calls wait for each other."""
        good = [item for item in walk.items if item.problem is None]
        if not good:
            return
        joined = {output.name for output in _recipe(accepted).outputs if output.rows}
        layout = lay_out([item.sizes for item in good], joined)
        sizes = [max(1, layout.total), *self._inlets(good)]
        with _measured(good, Stage.ADMIT):
            leases = await self._arena.take(sizes, accepted.asked.deadline)
        walk.slots += leases
        for item, inlet in zip(good, leases[1:], strict=False):
            source = _source(item)
            inlet.view[:] = source.data
            item.inlet, item.source = inlet, replace(source, data=inlet.view.toreadonly())
        for item, row in zip(good, layout.rows, strict=True):
            item.berth, item.outlets = leases[0], _outlets(leases[0], row, item.sizes)

    async def _work(self, item: Item, accepted: Accepted, places: Places, walk: Walk) -> None:
        """Decode, transform and pack, when the item's turn has come."""
        done = await self._run(item, accepted, places)
        if done.needed:
            # The header understated the sound. What it really takes is had now or not at all: a call that
            # waited while it holds slots could wait for ever.
            self._limits.check_output(
                _source(item), walk.output_bytes - item.output_bytes, sum(done.needed.values())
            )
            layout = lay_out([done.needed])
            lease = self._arena.try_take(layout.total)
            if lease is None:
                raise Overloaded(
                    f"{_source(item).label} is longer than its header says, and the arena has no room for it: try "
                    "again after the hinted time, or raise `arena.bytes`",
                    retry_after_s=1.0,
                )
            walk.slots.append(lease)
            walk.output_bytes += sum(done.needed.values()) - item.output_bytes
            item.sizes, item.berth = done.needed, lease
            item.outlets = _outlets(lease, layout.rows[0], done.needed)
            more = self._gate.enter(places.modality, 1)
            try:
                done = await self._run(item, accepted, more)
            finally:
                more.leave()
        if item.inlet is not None:
            walk.slots.remove(item.inlet)
            item.inlet.release()
            item.inlet = item.source = None
        if done.problem is not None:
            raise done.problem
        item.tensors = done.tensors
        item.finish()

    async def _run(self, item: Item, accepted: Accepted, places: Places) -> Done:
        recipe, source = _recipe(accepted), _source(item)
        assert item.info is not None  # noqa: S101 - measured before
        assert item.cost is not None  # noqa: S101
        assert item.target is not None  # noqa: S101
        most = self._limits.max_decoded_bytes(item.info, item.target)
        job = Job(
            source,
            item.info,
            recipe,
            replace(item.target, max_decoded_bytes=most),
            accepted.data_types,
            accepted.asked.deadline,
            None if item.inlet is None else item.inlet.offset,
            item.outlets,
        )
        with item.timeline.measure(Stage.ADMIT):
            ticket = await places.ticket(item.cost, accepted.asked.deadline)
        held = [lease for lease in (item.berth, item.inlet) if lease is not None]
        done = await self._workers.run(job, ticket, held)
        item.timeline.include(done.spent)
        item.cpu_ms += done.cpu_ms
        return done

    async def _deliver(self, accepted: Accepted, walk: Walk) -> None:
        """Asks the model for every batch that the good items make; a batch that fails blames its items."""
        delivery = _delivery(accepted)
        good = [item for item in walk.items if item.problem is None]
        if walk.items and not good:
            return
        each = delivery.binding.grouping is Grouping.EACH and bool(walk.items)
        rows = [item.tensors for item in good]
        for item in good:
            item.tensors = ()

        async def ask(batch: Batch) -> None:
            members = [good[place] for place in batch.rows]
            try:
                call = _call(accepted, batch, walk)
                with self._watching(accepted.model), self._under_way(call):
                    answer = await self._model_server().infer(call, accepted.asked.deadline)
                    walk.slots += answer.slots
                    outputs = rows_of(delivery.binding, batch, answer)
            except UpstreamError as problem:
                if accepted.fails_as_one or not each:
                    raise
                for item in members:
                    item.problem = problem.bare()
                return
            walk.model, walk.version = answer.model, answer.version
            if not each:
                (walk.outputs,) = outputs
                return
            for item, row in zip(members, outputs, strict=True):
                item.tensors = row

        await _side_by_side([ask(batch) for batch in batches(delivery.binding, rows, delivery.plain)])
        if walk.items and all(isinstance(item.problem, UpstreamError) for item in walk.items):
            # Nothing of the call succeeded, and not for any item's sake: a retry of the call may.
            problems = (item.problem for item in walk.items if item.problem is not None)
            raise next(problems).again()

    def _model_server(self) -> Upstream:
        assert self._upstream is not None  # noqa: S101 - checked at the door
        return self._upstream

    @contextmanager
    def _under_way(self, call: Call) -> Iterator[None]:
        """Bounds what waits for the model server, which may have stopped answering: Overloaded past it."""
        size = sum(tensor.nbytes for tensor in call.inputs)
        if self._delivering_bytes and self._delivering_bytes + size > self._limits.delivering_bytes:
            raise Overloaded(
                f"tensors of {self._delivering_bytes} bytes wait for the model server and "
                f"`limits.delivering_bytes` is {self._limits.delivering_bytes}: try again after the hinted time",
                # A model server that works takes tensors up in far less; out of the air.
                retry_after_s=1.0,
            )
        self._delivering_bytes += size
        try:
            yield
        finally:
            self._delivering_bytes -= size

    @contextmanager
    def _watching(self, model: ServedModel) -> Iterator[None]:
        """Has a model looked at anew when its server failed: it may come back another one."""
        try:
            yield
        except UpstreamError:
            self._catalogue.suspect(model.name)
            raise


def _recipe(accepted: Accepted) -> Recipe:
    assert accepted.recipe is not None  # noqa: S101 - a call without media has no items
    return accepted.recipe


def _source(item: Item) -> Source:
    assert item.source is not None  # noqa: S101 - an item without one has a problem
    return item.source


def _outlets(lease: Lease, row: Mapping[str, int], sizes: Mapping[str, int]) -> Mapping[str, Outlet]:
    view, start = lease.view, lease.offset
    return {name: Outlet(start + at, view[at : at + sizes[name]]) for name, at in row.items()}


@contextmanager
def _measured(items: Sequence[Item], stage: Stage) -> Iterator[None]:
    """Counts the time inside to `stage` of every item."""
    begun = time.monotonic_ns()
    try:
        yield
    finally:
        spent = time.monotonic_ns() - begun
        for item in items:
            item.timeline.add(stage, spent)


def _delivery(accepted: Accepted) -> Delivery:
    assert accepted.delivery is not None  # noqa: S101 - made at the door for every verb but preprocess
    return accepted.delivery


def _call(accepted: Accepted, batch: Batch, walk: Walk) -> Call:
    asked, model = accepted.asked, accepted.model
    asked.deadline.check(Stage.DELIVER.value)
    return Call(
        model=model.config.upstream or model.name,
        version=model.config.version,
        inputs=batch.inputs,
        outputs=asked.outputs,
        request_id=asked.request_id,
        parameters=asked.parameters,
        slots=tuple(walk.slots) if any(tensor.at is not None for tensor in batch.inputs) else (),
        signature=_delivery(accepted).signature,
    )


def _check_modality(model: ServedModel, takes: Modality, source: Source, info: MediaInfo) -> None:
    if info.modality is not takes:
        raise WrongModality(
            f"{source.label} is {info.modality.value} ({info.format}) and model {model.name!r} takes {takes.value}",
            model=model.name,
            found=info.modality.value,
        )


async def _side_by_side(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs all to their ends. When one raises, or the caller goes, the others are cancelled and awaited."""
    if len(works) == 1:
        await works[0]  # a task of its own would cost 30 µs
        return
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        # This frame goes along with what is raised, and the tasks hold what is raised.
        tasks.clear()
