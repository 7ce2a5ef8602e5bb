"""Media to tensors: every item of a call is measured, let in, decoded, transformed and packed.

An item that fails keeps its error and leaves its neighbours alone, unless the call fails as one. What was made of the
same content before, or is being made for another call, is not made again, unless the caller wants it so.
Errors about the call as a whole are raised: refusals before anything is decoded. Nothing here speaks to the
model server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from sidecar.arena.arena import Arena
from sidecar.arena.layout import Layout, lay_out
from sidecar.arena.lease import Lease
from sidecar.catalogue import ServedModel
from sidecar.entry import Accepted
from sidecar.errors import (
    CapacityError,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    SidecarError,
    Unaffordable,
    WrongModality,
)
from sidecar.media import Cost, MediaInfo, Modality, Reuse, Source, Tensor
from sidecar.observe.rounds import Rounds
from sidecar.observe.timings import Stage
from sidecar.recipes.recipe import Recipe
from sidecar.reuse.flights import Lead
from sidecar.reuse.prepared import Prepared
from sidecar.reuse.shared import Shared
from sidecar.stages.admit.cost import CostModel
from sidecar.stages.admit.credits import Credits
from sidecar.stages.admit.gate import Gate, Ticket
from sidecar.stages.admit.label import check_label
from sidecar.stages.admit.turns import Asker, Verdict
from sidecar.walk import Item, Received, Walk, side_by_side
from sidecar.workers.pool import Workers
from sidecar.workers.prober import Prober
from sidecar.workers.worker import Done, Job, Outlet

log = logging.getLogger(__name__)

# Stands for media that was not sent.
_NOTHING = Source(b"")

# From its ticket to its reply a call waits for about so many rounds of the event loop, the model server's answer
# aside: for its turn, its worker's report, the hand-over's beginning and the reply two each, one for the event and
# one for the task that it wakes.
_ROUNDS_OF_A_CALL = 8

T = TypeVar("T")

# What waits for an item's turn.
Turn = Callable[[], Awaitable[Ticket]]


class Preparer:
    """Prepares the media of calls, over the parts that the composition root gives it."""

    def __init__(
        self,
        *,
        gate: Gate,
        credit: Credits,
        costs: CostModel,
        shared: Shared,
        prober: Prober,
        arena: Arena,
        workers: Workers,
    ) -> None:
        self._gate = gate
        self._credits = credit
        self._costs = costs
        self._shared = shared
        self._prober = prober
        self._arena = arena
        self._workers = workers
        self._rounds = Rounds()

    def check(self, accepted: Accepted) -> None:
        """Refuses a call that would be refused whatever its media is; raises as `Gate.enter`."""
        if accepted.modality is not None:
            self._gate.check(self._asker(accepted), accepted.asked.items)

    async def estimate(
        self, accepted: Accepted, received: Sequence[Received | MediaInfo], walk: Walk
    ) -> Verdict:
        """What a call with such media would cost now, and what the gate would say of it; facts for media will do."""
        await self._measure_all(accepted, received, walk)
        costs = [item.cost for item in walk.items if item.problem is None and item.cost is not None]
        return self._gate.foretell(self._asker(accepted), costs) if costs else Verdict(0.0)

    def preview(
        self, accepted: Accepted, infos: Sequence[MediaInfo | SidecarError], *, delivers: bool
    ) -> None:
        """Refuses a call by what is said of its media, as `Gate.enter` raises; bad items are left for later."""
        if accepted.modality is None:
            return
        walk, costs = Walk(), []
        for info in infos:
            item = Item()
            with suppress(SidecarError):
                if not isinstance(info, SidecarError):
                    self._price(item, info, _NOTHING, accepted, walk)
                    costs.append(_cost(item))
        if costs:
            self._gate.require(self._asker(accepted, delivers=delivers), costs)

    async def prepare(self, accepted: Accepted, received: Sequence[Received], walk: Walk) -> None:
        """Takes all items up to pack, side by side; the call's own times are those of the last ready."""
        if not received or accepted.modality is None:
            return
        self._rounds.feel()
        try:
            await self._measure_all(accepted, received, walk)
            good = [(index, item) for index, item in enumerate(walk.items) if item.problem is None]
            if not accepted.asked.fresh:
                await self._look_up(accepted, [item for _, item in good])
            match good:
                case [(index, item)] if item.address is not None:
                    step = partial(self._share, item, accepted, walk)
                    lead = await self._or_blame(index, accepted, walk, step)
                    if lead is not None:
                        with lead:
                            await self._take_turns(accepted, good, walk, lead)
                case [_, *_]:
                    await self._take_turns(accepted, good, walk)
        finally:
            for item in walk.items:
                if item.times is None:
                    item.finish()
            walk.timeline.include(max(walk.items, key=lambda item: item.ready_ns).timeline.marks)

    async def _measure_all(
        self, accepted: Accepted, received: Sequence[Received | MediaInfo], walk: Walk
    ) -> None:
        walk.items[:] = [Item() for _ in received]
        await side_by_side(
            [
                self._or_blame(index, accepted, walk, partial(self._measure, item, one, accepted, walk))
                for index, (item, one) in enumerate(zip(walk.items, received, strict=True))
            ]
        )

    async def _look_up(self, accepted: Accepted, items: Sequence[Item]) -> None:
        """Finds what the items' results are known by, where they are shared."""
        for item in items:
            assert item.target is not None  # noqa: S101 - measured before
            with item.timeline.measure(Stage.ADMIT):
                item.address = await self._shared.address(
                    _source(item).data,
                    _recipe(accepted),
                    accepted.data_types,
                    item.target,
                    accepted.asked.tenant,
                )

    async def _share(self, item: Item, accepted: Accepted, walk: Walk) -> Lead | None:
        """Gives the only item of a call what is kept, or what another call makes; else the lead, to make it for all."""
        assert item.address is not None  # noqa: S101 - looked up before
        source, deadline = _source(item), accepted.asked.deadline
        outcome: Prepared | Lead | None = self._shared.cache.find(item.address)
        item.reuse = Reuse.KEPT
        if outcome is None:
            item.reuse = Reuse.SHARED
            with (
                item.timeline.measure(Stage.ADMIT),
                self._gate.holding(self._asker(accepted), len(source.data)),
            ):
                outcome = await self._shared.flights.join(_flight(item, accepted), source.label, deadline)
        if isinstance(outcome, Prepared):
            walk.slots.append(outcome.lease)
            item.tensors, item.source = outcome.tensors, None
            item.finish()
            return None
        item.reuse = Reuse.MADE
        return outcome

    async def _take_turns(
        self, accepted: Accepted, good: Sequence[tuple[int, Item]], walk: Walk, lead: Lead | None = None
    ) -> None:
        """Has items of a call let in or refused as one, and works on each when its turn comes."""
        items = [item for _, item in good]
        with _measured(items, Stage.ADMIT):
            layout = _layout(accepted, items)
            # Of their tensors together, then what came in.
            slots = [max(1, layout.total), *self._inlets(items)]
            # What does not fit an empty arena would wait for ever, and nobody passes it.
            self._arena.check_fits(slots, "the request")
            places = self._gate.enter(
                self._asker(accepted),
                [_cost(item) for item in items],
                [len(_source(item).data) for item in items],
                _CallRoom(partial(self._take_room, layout, slots, items, walk)),
            )
        try:
            await side_by_side(
                [
                    self._or_blame(
                        index,
                        accepted,
                        walk,
                        partial(self._work, item, accepted, partial(places.ticket, place), walk, lead),
                    )
                    for place, (index, item) in enumerate(good)
                ]
            )
        finally:
            places.leave()

    def _asker(self, accepted: Accepted, *, delivers: bool | None = None) -> Asker:
        """A call as the gate knows it; what the model server and this process take after it are taken off its time."""
        asked, model = accepted.asked, accepted.model.name
        assert accepted.modality is not None  # noqa: S101 - a call without media is nobody's to admit
        delivers = accepted.delivery is not None if delivers is None else delivers
        deadline_ns = asked.deadline.at_ns
        if deadline_ns is not None:
            deadline_ns -= int(_ROUNDS_OF_A_CALL * self._rounds.mean_ns)
        if delivers:
            self._credits.know(model, accepted.model.config.in_flight, _largest_batch(accepted))
            if deadline_ns is not None:
                deadline_ns -= int(self._credits.takes_s(model, time.monotonic_ns()) * 1e9)
        return Asker(accepted.modality, model, asked.tenant, asked.priority, deadline_ns, delivers)

    async def _or_blame(
        self, index: int, accepted: Accepted, walk: Walk, step: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Takes a step of an item, or leaves it with its problem; raises what concerns the whole call."""
        item = walk.items[index]
        try:
            return await step()
        except (DeadlineExceeded, CapacityError, Unaffordable):
            raise
        except SidecarError as problem:
            item.problem = problem.bare()
        except Exception:
            log.exception("preparing item %d for model %s failed", index, accepted.model.name)
            item.problem = InternalError(f"item {index} could not be prepared: a fault of the server")
        item.finish()
        item.problem.facts.setdefault("item", str(index))
        if accepted.fails_as_one:
            raise item.problem.again()
        return None

    async def _measure(
        self, item: Item, received: Received | MediaInfo, accepted: Accepted, walk: Walk
    ) -> None:
        """What an item is, what it will cost and how much it will leave; or why it is not let in."""
        if isinstance(received, SidecarError):
            raise received
        if not isinstance(received, Source):
            unsent = replace(_NOTHING, label=f"item {walk.items.index(item)}")
            self._price(item, received, unsent, accepted, walk)
            return
        self._workers.check(received)
        item.source = received
        info, mark = await self._prober.probe(received)
        item.timeline.add(*mark)
        check_label(received, info)
        self._price(item, info, received, accepted, walk)

    def _price(self, item: Item, info: MediaInfo, source: Source, accepted: Accepted, walk: Walk) -> None:
        """Fills in what follows from an item's facts. Raises what they are refused with."""
        item.info = info
        recipe = _recipe(accepted)
        _check_modality(accepted.model, recipe.modality, source, info)
        item.target = recipe.decode_target(info)
        limits = accepted.limits
        limits.check(source, info, item.target)
        quote = self._costs.quote(info, item.target, recipe.workload(info, accepted.data_types))
        # A sound whose length nobody knows is decoded as far as the limits go, and no further.
        most = min(quote.cost.decoded_bytes, limits.max_decoded_bytes(info, item.target))
        item.quote = replace(quote, cost=replace(quote.cost, decoded_bytes=most))
        item.tokens = recipe.tokens(info)
        sizes = recipe.output_bytes(info, accepted.data_types)
        limits.check_output(source, walk.output_bytes, sum(sizes.values()))
        item.sizes = sizes
        self._arena.check_fits([max(1, item.output_bytes), *self._inlets([item])], source.label)
        walk.output_bytes += item.output_bytes

    def _inlets(self, items: Sequence[Item]) -> list[int]:
        """The bytes of the slots for what was received, where workers need it there."""
        if not self._workers.takes_copies:
            return []
        return [len(item.source.data) for item in items if item.source is not None]

    def _take_room(self, layout: Layout, slots: Sequence[int], items: Sequence[Item], walk: Walk) -> bool:
        """Takes all that the call needs of the arena at once, so that no two calls wait for each other's halves."""
        leases = self._arena.try_take_all(slots)
        if leases is None:
            return False
        walk.slots += leases
        for item, inlet in zip(items, leases[1:], strict=False):
            source = _source(item)
            inlet.view[:] = source.data
            item.inlet, item.source = inlet, replace(source, data=inlet.view.toreadonly())
        for item, row in zip(items, layout.rows, strict=True):
            item.berth, item.outlets = leases[0], _outlets(leases[0], row, item.sizes)
        return True

    async def _work(self, item: Item, accepted: Accepted, turn: Turn, walk: Walk, lead: Lead | None) -> None:
        """An item when its turn has come: copied from what is there, unless it leads already; else made."""
        ticket = await self._in_turn(item, turn)
        if lead is not None or item.address is None:
            await self._make(item, accepted, ticket, walk, lead)
            return
        try:
            copied = await self._copy(item, accepted)
        except BaseException:
            ticket.release()
            raise
        if copied:
            ticket.release()
            self._let_go(item, walk)
            item.finish()
            return
        lead = self._shared.flights.try_lead(_flight(item, accepted), _source(item).label)
        with lead or nullcontext():
            await self._make(item, accepted, ticket, walk, lead)

    async def _in_turn(self, item: Item, turn: Turn) -> Ticket:
        with item.timeline.measure(Stage.ADMIT):
            return await turn()

    async def _copy(self, item: Item, accepted: Accepted) -> bool:
        """Fills an item's outlets with what is kept of the same content, or just being made; whether it could."""
        assert item.address is not None  # noqa: S101 - asked only where there is one
        found, item.reuse = self._shared.cache.find(item.address), Reuse.KEPT
        if found is None:
            with item.timeline.measure(Stage.ADMIT):
                found = await self._shared.flights.follow(
                    _flight(item, accepted), _source(item).label, accepted.asked.deadline
                )
            item.reuse = Reuse.SHARED
        if found is not None:
            try:
                # A sound may be longer than its header says, and than its outlets have room for.
                if all(tensor.nbytes <= item.outlets[tensor.name].data.nbytes for tensor in found.tensors):
                    with item.timeline.measure(Stage.PACK):
                        item.tensors = tuple(
                            _copied(tensor, item.outlets[tensor.name]) for tensor in found.tensors
                        )
                    return True
            finally:
                found.lease.release()
        item.reuse = Reuse.MADE
        return False

    async def _make(
        self, item: Item, accepted: Accepted, ticket: Ticket, walk: Walk, lead: Lead | None
    ) -> None:
        """Decode, transform and pack; for all who follow, where it leads."""
        if lead is not None:
            lead.begin()
        done = await self._run(item, accepted, ticket)
        if done.needed:
            done = await self._run_again(item, accepted, done.needed, walk)
        elif done.problem is None and item.quote is not None:
            self._costs.learn(item.quote, done.cpu_ms)
        self._let_go(item, walk)
        if done.problem is not None:
            if lead is not None:
                lead.fail(done.problem)
            raise done.problem
        item.tensors = done.tensors
        if item.address is not None and item.berth is not None:
            prepared = Prepared(done.tensors, item.berth, item.cpu_ms)
            self._shared.cache.keep(item.address, prepared)
            if lead is not None:
                lead.land(prepared)
        item.finish()

    async def _run_again(self, item: Item, accepted: Accepted, needed: Mapping[str, int], walk: Walk) -> Done:
        """The header understated the sound. What it really takes is had now or not at all: a call that waited
        while it holds slots could wait for ever.
        """
        source = _source(item)
        limits = accepted.limits
        limits.check_output(source, walk.output_bytes - item.output_bytes, sum(needed.values()))
        layout = lay_out([needed])
        lease = self._arena.try_take(layout.total)
        if lease is None:
            raise Overloaded(
                f"{source.label} is longer than its header says, and the arena has no room for it: try "
                "again after the hinted time, or raise `arena.bytes`",
                retry_after_s=1.0,
            )
        walk.slots.append(lease)
        walk.output_bytes += sum(needed.values()) - item.output_bytes
        item.sizes, item.berth = needed, lease
        item.outlets = _outlets(lease, layout.rows[0], needed)
        again = self._gate.enter(self._asker(accepted), [_cost(item)], [0])
        try:
            return await self._run(item, accepted, await self._in_turn(item, partial(again.ticket, 0)))
        finally:
            again.leave()

    async def _run(self, item: Item, accepted: Accepted, ticket: Ticket) -> Done:
        """One job, which has the ticket from now on."""
        assert item.info is not None  # noqa: S101 - measured before
        assert item.target is not None  # noqa: S101
        most = accepted.limits.max_decoded_bytes(item.info, item.target)
        job = Job(
            _source(item),
            item.info,
            _recipe(accepted),
            replace(item.target, max_decoded_bytes=most),
            accepted.data_types,
            accepted.asked.deadline,
            None if item.inlet is None else item.inlet.offset,
            item.outlets,
        )
        held = [lease for lease in (item.berth, item.inlet) if lease is not None]
        item.begun_ns = time.monotonic_ns()
        done = await self._workers.run(job, ticket, held)
        item.timeline.include(done.marks)
        item.cpu_ms += done.cpu_ms
        return done

    @staticmethod
    def _let_go(item: Item, walk: Walk) -> None:
        """The media is not needed any more."""
        if item.inlet is not None:
            walk.slots.remove(item.inlet)
            item.inlet.release()
            item.inlet = None
        item.source = None


def _copied(tensor: Tensor, outlet: Outlet) -> Tensor:
    data = outlet.data[: tensor.nbytes]
    data[:] = memoryview(tensor.data).cast("B")
    return replace(tensor, data=data, at=outlet.at)


def _flight(item: Item, accepted: Accepted) -> Hashable:
    """What those have in common who may wait for one another: nobody waits for work that comes after its own."""
    delivers = accepted.delivery is not None
    return item.address, accepted.asked.priority, accepted.model.name if delivers else ""


def _layout(accepted: Accepted, items: Sequence[Item]) -> Layout:
    """Where the tensors of items lie in their slot; those that are joined one after the other."""
    joined = {output.name for output in _recipe(accepted).outputs if output.rows}
    return lay_out([item.sizes for item in items], joined)


def _cost(item: Item) -> Cost:
    assert item.cost is not None  # noqa: S101 - an item without one has a problem
    return item.cost


def _largest_batch(accepted: Accepted) -> int:
    signature = accepted.model.signature
    return signature.max_batch_size if signature else 0


@dataclass(slots=True)
class _CallRoom:
    """What a call needs of the arena, as the gate takes it."""

    taking: Callable[[], bool]
    held: bool = False

    def take(self) -> bool:
        self.held = self.taking()
        return self.held


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
        ended = time.monotonic_ns()
        for item in items:
            item.timeline.add(stage, begun, ended)


def _recipe(accepted: Accepted) -> Recipe:
    assert accepted.recipe is not None  # noqa: S101 - a call without media has no items
    return accepted.recipe


def _check_modality(model: ServedModel, takes: Modality, source: Source, info: MediaInfo) -> None:
    if info.modality is not takes:
        raise WrongModality(
            f"{source.label} is {info.modality.value} ({info.format}) and model {model.name!r} takes {takes.value}",
            model=model.name,
            found=info.modality.value,
        )
