"""The self-check: is the accounts' figure right? The accelerator is fed with tensors that are there already.

For some seconds the model server is only watched. Then the next request's tensors are kept and handed over again and
again, so that it never lacks input, and what it answers is counted. The part by which it answers more is what it
lacked input for; the accounts must say the same (the differential method of DS-Analyzer, VLDB'21, on a live server).

It runs when it is asked to, one at a time and for a bounded while, beside whatever else is going on. Outputs of
replays are dropped unseen, and nobody is given another caller's tensors.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded, InvalidRequest, Overloaded
from sidecar.observe.starvation import Counters
from sidecar.observe.watcher import UpstreamFacts, Watcher
from sidecar.stages.deliver.upstream import Call, Upstream
from sidecar.walk import side_by_side

LEAST_S: Final = 0.5
MOST_S: Final = 10.0
USUAL_S: Final = 2.0
# How long a request may let itself be waited for, and how long the accounts may take to settle what was watched.
_PATIENCE_S: Final = 10.0
_SETTLES_S: Final = 10.0
_AGREES: Final = 0.05


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows a second while it was watched and while it was fed, and the part it lacked input for, found both ways."""

    upstream: str
    live_rows_per_s: float
    fed_rows_per_s: float
    starved_by_accounts: float

    @property
    def starved_by_rates(self) -> float:
        return max(0.0, 1 - self.live_rows_per_s / self.fed_rows_per_s) if self.fed_rows_per_s else 0.0

    @property
    def agree(self) -> bool:
        return abs(self.starved_by_rates - self.starved_by_accounts) <= _AGREES

    @property
    def words(self) -> str:
        """The outcome as a sentence."""
        verb = "agree" if self.agree else "DISAGREE"
        return (
            f"{self.upstream} answered {self.live_rows_per_s:.1f} rows/s, and {self.fed_rows_per_s:.1f} while it was "
            f"fed: it lacked input {self.starved_by_rates:.0%} of the time. "
            f"By the accounts {self.starved_by_accounts:.0%}; the two {verb}."
        )


class SelfCheck:
    """Runs self-checks. `offer` is told of every hand-over and costs nothing while none is awaited."""

    def __init__(self, upstream: Upstream | None, watcher: Watcher) -> None:
        self._upstream = upstream
        self._watcher = watcher
        self._wanted: tuple[str, asyncio.Future[Call]] | None = None
        self._running = False

    def offer(self, model: str, call: Call) -> None:
        """A call to the model server that is about to be handed over, for a served model."""
        if self._wanted is None or self._wanted[0] != model or self._wanted[1].done():
            return
        for slot in call.slots:
            slot.retain()
        self._wanted[1].set_result(call)

    async def run(self, model: str, facts: tuple[str, UpstreamFacts], seconds: float) -> Checked:
        """Checks the account of the model server's model that `model` asks; `facts` are its name and what is known.

        Raises InvalidRequest for seconds out of bounds and where nobody watches, Overloaded while another check runs,
        DeadlineExceeded where no request comes that could be replayed, and what the model server's failures are.
        """
        if self._upstream is None or not self._watcher.watches:
            missing = "triton.address" if self._upstream is None else "verdict.enabled"
            raise InvalidRequest(f"there is nothing to check: set `{missing}`", field="model")
        if not LEAST_S <= seconds <= MOST_S:
            raise InvalidRequest(
                f"`seconds` is {seconds:g}: allowed are {LEAST_S:g} to {MOST_S:g}, and 0 for {USUAL_S:g}",
                field="seconds",
            )
        if self._running:
            raise Overloaded(
                "another self-check runs: try again after the hinted time", retry_after_s=2 * seconds
            )
        self._running = True
        try:
            return await self._run(self._upstream, self._watcher, model, facts, seconds)
        finally:
            self._running = False

    async def _run(
        self,
        upstream: Upstream,
        watcher: Watcher,
        model: str,
        facts: tuple[str, UpstreamFacts],
        seconds: float,
    ) -> Checked:
        name, fact = facts

        async def counted() -> Counters:
            return await upstream.counters(name, fact.version, Deadline.after(seconds))

        before = await counted()
        await asyncio.sleep(seconds)
        between = await counted()
        lacked = await _lacked(watcher, name, before.at_ns, between.at_ns)
        live = (between.rows - before.rows) / (between.at_ns - before.at_ns) * 1e9
        batch = (between.rows - before.rows) / max(1, between.executions - before.executions)
        call = await self._caught(model)
        try:
            begun = await counted()
            await _feed(upstream, call, batch, seconds)
            ended = await counted()
        finally:
            for slot in call.slots:
                slot.release()
        fed = (ended.rows - begun.rows) / (ended.at_ns - begun.at_ns) * 1e9
        return Checked(name, live, fed, lacked)

    async def _caught(self, model: str) -> Call:
        """The next call that is handed over for a model, its slots retained."""
        wanted: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        self._wanted = model, wanted
        caught: Call | None = None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                caught = await wanted
                return caught
        except TimeoutError:
            raise DeadlineExceeded(
                f"no request for model {model!r} was handed over within {_PATIENCE_S:g} s, so there is nothing to "
                "replay: ask while it is in use",
                stage="deliver",
            ) from None
        finally:
            self._wanted = None
            if caught is None and wanted.done() and not wanted.cancelled():
                # It came just as nobody waited any more.
                for slot in wanted.result().slots:
                    slot.release()


async def _lacked(watcher: Watcher, name: str, since_ns: int, until_ns: int) -> float:
    """The part of a span by which a model lacked input, as soon as the accounts have settled it."""
    try:
        async with asyncio.timeout(_SETTLES_S):
            while (lacked := watcher.lacked(name, since_ns, until_ns)) is None:
                await watcher.turned()
            return lacked
    except TimeoutError:
        raise DeadlineExceeded(
            f"the accounts of {name!r} did not settle within {_SETTLES_S:g} s: ask again", stage="deliver"
        ) from None


async def _feed(upstream: Upstream, call: Call, batch: float, seconds: float) -> None:
    """Keeps one batch waiting while another is executed, as large as they were before, for so many seconds."""
    ends = time.monotonic() + seconds
    call = replace(call, request_id="self-check", headers=())

    async def again() -> None:
        while time.monotonic() < ends:
            answer = await upstream.infer(call, Deadline.after(seconds + _PATIENCE_S))
            for slot in answer.slots:
                slot.release()

    in_flight = max(2, round(2 * batch / max(1, call.rows)))
    await side_by_side([again() for _ in range(in_flight)])
