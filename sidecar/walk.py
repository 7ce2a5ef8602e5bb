"""A call on its way along the path, and its items: what each has become so far, with its clock.

Filled in by prepare.py and pipeline.py, read by the edge and the metrics at any moment. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.arena.lease import Lease
from sidecar.errors import SidecarError
from sidecar.media import Cost, DecodeTarget, MediaInfo, Reuse, Source, Tensor
from sidecar.observe.journal import Handover
from sidecar.observe.timings import ModelTimes, Timeline, Timings
from sidecar.reuse.content import Address
from sidecar.stages.admit.cost import Quote
from sidecar.stages.deliver.upstream import Slot
from sidecar.workers.worker import Outlet

# One media item as it was received: its bytes, or why there are none.
Received = Source | SidecarError


@dataclass(slots=True, eq=False)
class Item:
    """One media item on its way: filled in from left to right, or given a problem.

    `target` is what decode is to leave; `tokens` the placeholder tokens of the prompt, where that is known;
    `sizes` foretells the bytes of each output; `inlet` holds its bytes in the arena, where workers are
    processes; `outlets` is where its outputs go, in `berth`. `begun_ns` is when its job was given to the workers, 0 for
    not yet. `address` is what its result is known by, None where it is nobody else's; `reuse` is whether its tensors
    were made for this call.
    """

    timeline: Timeline = field(default_factory=Timeline)
    source: Source | None = None
    info: MediaInfo | None = None
    target: DecodeTarget | None = None
    tokens: int | None = None
    quote: Quote | None = None
    address: Address | None = None
    reuse: Reuse = Reuse.MADE
    sizes: Mapping[str, int] = field(default_factory=dict)
    inlet: Lease | None = None
    berth: Lease | None = None
    outlets: Mapping[str, Outlet] = field(default_factory=dict)
    begun_ns: int = 0
    cpu_ms: float = 0.0
    tensors: tuple[Tensor, ...] = ()
    problem: SidecarError | None = None
    times: Timings | None = None
    ready_ns: int = 0

    @property
    def cost(self) -> Cost | None:
        """What it was foretold to take; None where that is not known."""
        return self.quote.cost if self.quote else None

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
    until `release`; `outputs` are the model's where they belong to no one item; `handovers` is what the model server
    was given, and when it answered; `model` and `version` say who did; `headers` are what it is told of the trace that
    the call belongs to; `first_output_ns` is the time from hand-over to the first response of a stream, 0 until there
    is one; `model_times` is what the model told last of its own time.
    """

    timeline: Timeline = field(default_factory=Timeline)
    items: list[Item] = field(default_factory=list)
    output_bytes: int = 0
    slots: list[Slot] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    headers: tuple[tuple[str, str], ...] = ()
    outputs: tuple[Tensor, ...] = ()
    model: str = ""
    version: str = ""
    responses: int = 0
    first_output_ns: int = 0
    model_times: ModelTimes | None = None

    def release(self) -> None:
        """Lets go of the arena, and of the items' tensors, which are not to be read after; what was measured of them
        stays for observers.
        """
        while self.slots:
            self.slots.pop().release()
        for item in self.items:
            item.source, item.berth, item.tensors, item.outlets = None, None, (), {}


async def side_by_side(works: Sequence[Coroutine[Any, Any, None]]) -> None:
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
