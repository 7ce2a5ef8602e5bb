"""THE PATH: probe -> admit -> decode -> transform -> pack -> deliver, as one reads it aloud.

Domain values in, domain values out; what arrives before and leaves after is the edge's. An item that
fails keeps its error and leaves its neighbours alone, unless the call fails as one. Errors about the
call as a whole are raised: before anything is spent wherever that can be known.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace

from sidecar.catalogue import Catalogue, ServedModel
from sidecar.entry import Accepted, Asked, Delivery, accept
from sidecar.errors import Overloaded, SidecarError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from sidecar.media import MediaInfo
from sidecar.observe.journal import Handover
from sidecar.observe.timings import Stage
from sidecar.prepare import Preparer
from sidecar.stages.admit.credits import Credits
from sidecar.stages.admit.limits import Limits, LimitsByModel
from sidecar.stages.admit.turns import Verdict
from sidecar.stages.deliver.batching import Batch, batches, rows_of
from sidecar.stages.deliver.bindings import Grouping
from sidecar.stages.deliver.model_times import model_times
from sidecar.stages.deliver.upstream import Answer, Call, Upstream
from sidecar.walk import Received, Walk, side_by_side


class Pipeline:
    """The path, over the parts that the composition root gives it."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        limits: LimitsByModel,
        preparer: Preparer,
        credit: Credits,
        upstream: Upstream | None,
        offer: Callable[[str, Call], None] = lambda _model, _call: None,
    ) -> None:
        """`offer` is told of every call to the model server before it is handed over, by the served model's name."""
        self._catalogue = catalogue
        self._limits = limits
        self._preparer = preparer
        self._credits = credit
        self._upstream = upstream
        self._offer = offer
        self._delivering_bytes = 0

    def limits(self, model: str) -> Limits:
        """What media for the model of that name may bring."""
        return self._limits.of(model)

    def accept(self, asked: Asked) -> Accepted:
        """Lets a call begin, or refuses it before anything is spent on it; see `entry.accept`.

        Raises UnknownModel, Overloaded and Unaffordable besides.
        """
        accepted = self.look(asked)
        self._preparer.check(accepted)
        return accepted

    def look(self, asked: Asked) -> Accepted:
        """As `accept`, for calls that only ask: how full it is does not matter."""
        return accept(
            asked,
            self._catalogue.get(asked.model),
            has_model_server=self._upstream is not None,
            limits=self._limits.of(asked.model),
        )

    async def estimate(
        self, accepted: Accepted, received: Sequence[Received | MediaInfo], walk: Walk
    ) -> Verdict:
        """What a call with such media would cost now, and what the gate would say of it; facts for media will do."""
        return await self._preparer.estimate(accepted, received, walk)

    def preview(self, asked: Asked, infos: Sequence[MediaInfo | SidecarError], *, delivers: bool) -> None:
        """Refuses a call by what is said of its media, as `Gate.enter` raises; bad items are left for later."""
        self._preparer.preview(self.look(asked), infos, delivers=delivers)

    async def preprocess(self, accepted: Accepted, received: Sequence[Received], walk: Walk) -> None:
        """Media to tensors."""
        await self._preparer.prepare(accepted, received, walk)

    async def infer(self, accepted: Accepted, received: Sequence[Received], walk: Walk) -> None:
        """Media to the model's outputs: of each item where items are inferences of their own, else of all."""
        await self._preparer.prepare(accepted, received, walk)
        with walk.timeline.measure(Stage.DELIVER):
            await self._deliver(accepted, walk)

    async def infer_stream(
        self, accepted: Accepted, received: Sequence[Received], walk: Walk
    ) -> AsyncGenerator[Answer | None, None]:
        """Media to a stream: None once, when the items are prepared, then each of the model's responses."""
        await self._preparer.prepare(accepted, received, walk)
        for item in walk.items:
            if item.problem is not None:
                raise item.problem.again()
        yield None
        delivery = _delivery(accepted)
        (batch,) = batches(delivery.binding, [item.tensors for item in walk.items], delivery.plain)
        call = _call(accepted, batch, walk)
        with (
            self._watching(accepted.model),
            self._under_way(call, accepted.limits.delivering_bytes),
            self._on_credit(accepted.model.name, len(walk.items), call, walk, streamed=True) as answered,
        ):
            async with aclosing(self._model_server().stream(call, accepted.asked.deadline)) as answers:
                while True:
                    # Only the wait for the model server counts as deliver, not our reader's own pace.
                    with walk.timeline.measure(Stage.DELIVER):
                        answer = await anext(answers, None)
                    answered()
                    if answer is None:
                        return
                    walk.first_output_ns = walk.first_output_ns or walk.timeline.spent[Stage.DELIVER]
                    walk.responses += 1
                    walk.model, walk.version = answer.model, answer.version
                    walk.model_times = model_times(answer.outputs) or walk.model_times
                    (outputs,) = rows_of(delivery.binding, batch, answer)
                    walk.handovers[-1].paused = True
                    yield replace(answer, outputs=outputs)
                    walk.handovers[-1].paused = False
                    for slot in answer.slots:
                        slot.release()

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
                self._offer(accepted.model.name, call)
                with (
                    self._watching(accepted.model),
                    self._under_way(call, accepted.limits.delivering_bytes),
                    self._on_credit(accepted.model.name, len(members), call, walk) as answered,
                ):
                    answer = await self._model_server().infer(call, accepted.asked.deadline)
                    answered()
                    walk.slots += answer.slots
                    outputs = rows_of(delivery.binding, batch, answer)
            except UpstreamError as problem:
                if accepted.fails_as_one or not each:
                    raise
                for item in members:
                    item.problem = problem.bare()
                return
            walk.model, walk.version = answer.model, answer.version
            walk.model_times = model_times(answer.outputs) or walk.model_times
            if not each:
                (walk.outputs,) = outputs
                return
            for item, row in zip(members, outputs, strict=True):
                item.tensors = row

        await side_by_side([ask(batch) for batch in batches(delivery.binding, rows, delivery.plain)])
        if walk.items and all(isinstance(item.problem, UpstreamError) for item in walk.items):
            # Nothing of the call succeeded, and not for any item's sake: a retry of the call may.
            problems = (item.problem for item in walk.items if item.problem is not None)
            raise next(problems).again()

    def _model_server(self) -> Upstream:
        assert self._upstream is not None  # noqa: S101 - checked at the door
        return self._upstream

    @contextmanager
    def _under_way(self, call: Call, most: int) -> Iterator[None]:
        """Bounds what waits for the model server, which may have stopped answering: Overloaded past it."""
        size = sum(tensor.nbytes for tensor in call.inputs)
        if self._delivering_bytes and self._delivering_bytes + size > most:
            raise Overloaded(
                f"tensors of {self._delivering_bytes} bytes wait for the model server and "
                f"`limits.delivering_bytes` is {most}: try again after the hinted time",
                # A model server that works takes tensors up in far less; out of the air.
                retry_after_s=1.0,
            )
        self._delivering_bytes += size
        try:
            yield
        finally:
            self._delivering_bytes -= size

    @contextmanager
    def _on_credit(
        self, model: str, items: int, call: Call, walk: Walk, *, streamed: bool = False
    ) -> Iterator[Callable[[], None]]:
        """Counts items that the model server has, until it answers: what is given then says so, each time that it
        does. The gate gives out as many as the model has room for.
        """
        handover = Handover(call.rows, time.monotonic_ns(), whole=streamed)
        walk.handovers.append(handover)
        left = items
        if items:
            self._credits.hand_over(model, items)

        def take_back(took_s: float | None) -> None:
            nonlocal left
            if left:
                self._credits.answered(model, left, took_s, time.monotonic_ns())
            left = 0

        def answered() -> None:
            handover.last_ns = time.monotonic_ns()
            take_back((handover.last_ns - handover.handed_ns) / 1e9)

        try:
            yield answered
            handover.answered_ns = handover.last_ns
        except UpstreamError as problem:
            handover.failed = isinstance(problem, UpstreamUnavailable | UpstreamTimeout)
            handover.whole = True
            raise
        except BaseException:
            # Its caller left, or its time ran out; what had been answered by then was.
            handover.failed = not handover.last_ns
            handover.whole = True
            raise
        finally:
            handover.answered_ns = handover.answered_ns or time.monotonic_ns()
            take_back(None)

    @contextmanager
    def _watching(self, model: ServedModel) -> Iterator[None]:
        """Has a model looked at anew when its server failed: it may come back another one."""
        try:
            yield
        except UpstreamError:
            self._catalogue.suspect(model.name)
            raise


def _delivery(accepted: Accepted) -> Delivery:
    assert accepted.delivery is not None  # noqa: S101 - made at the door for every verb but preprocess
    return accepted.delivery


def _call(accepted: Accepted, batch: Batch, walk: Walk) -> Call:
    asked, model = accepted.asked, accepted.model
    asked.deadline.check(Stage.DELIVER.value)
    return Call(
        model=accepted.upstream,
        version=model.config.version,
        inputs=batch.inputs,
        outputs=asked.outputs,
        request_id=asked.request_id,
        parameters={**asked.parameters, **asked.reserved},
        classes=asked.classes,
        slots=tuple(walk.slots) if any(tensor.at is not None for tensor in batch.inputs) else (),
        signature=_delivery(accepted).signature,
        headers=walk.headers,
    )
