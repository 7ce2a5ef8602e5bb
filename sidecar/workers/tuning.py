"""Runs the tuner over a live server: tells it what happened, and does, or only says, what it decides.

`advise` says what it would try and changes nothing, so it has no trial's evidence; `act` moves the plan. Every decision
is a line of the log with its evidence. It decides nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sidecar.media import Modality
from sidecar.observe.machine import Machine, Usage, between
from sidecar.workers.planner import Planner
from sidecar.workers.tuner import TICK_S, Kind, Move, Numbers, Sample, Tuner

log = logging.getLogger(__name__)

Mode = Literal["off", "advise", "act"]


@dataclass(frozen=True, slots=True)
class TunerConfig:
    """`mode`: off; advise, which says what it would try; act, which tries it and keeps what does more."""

    mode: Mode = "off"


class Load(Protocol):
    """What the tuner asks of the gate."""

    @property
    def done_ms(self) -> float:
        """Work that ended since the start, in milliseconds of predicted CPU time."""
        ...

    def crowded(self, threads: Mapping[Modality, int]) -> frozenset[Modality]:
        """The modalities of which items wait while so many have slots."""
        ...


class Tuning:
    """A tuner, and what it looks at."""

    def __init__(
        self,
        config: TunerConfig,
        planner: Planner,
        load: Load,
        pids: Callable[[], Sequence[int]],
        machine: Machine | None = None,
    ) -> None:
        """`pids` are the worker processes."""
        self._config = config
        self._planner = planner
        self._load = load
        self._pids = pids
        self._machine = machine or Machine()
        self._tuner = Tuner(planner.allows)
        self._usage: Usage | None = None
        self._done_ms = 0.0
        self._version = planner.version

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._tick()
            except Exception:
                log.exception("the tuner failed; the plan stays as it is")
                self._tuner.restart()
                self._planner.tune(None, "the tuner failed")

    def _tick(self) -> None:
        if self._version != self._planner.version:
            self._version = self._planner.version
            self._tuner.restart()
        sample = self._look()
        if sample is None:
            return
        move = self._tuner.tick(sample, self._planner.plan.threads, self._planner.own.threads)
        if self._config.mode == "act":
            if move is not None:
                self._make(move)
        elif move is not None:
            log.info("tuner: %s: would go by %s", move.why, _named(move.numbers))
        elif (other := self._tuner.call_off(sample.at_ns)) is not None:
            log.info("tuner: items wait: would try %s", _named(other))

    def _make(self, move: Move) -> None:
        words = f"tuner: {move.kind.value} {_named(move.numbers)}: {move.why}"
        log.log(logging.DEBUG if move.kind is Kind.TRIAL else logging.INFO, words)
        self._planner.tune(move.numbers, words, lasting=move.kind is not Kind.TRIAL)

    def _look(self) -> Sample | None:
        """What happened since the last look; None for the first."""
        before, self._usage = self._usage, self._machine.look(self._pids())
        done_ms, self._done_ms = self._load.done_ms - self._done_ms, self._load.done_ms
        if before is None:
            return None
        threads = self._planner.plan.threads
        spell = between(before, self._usage, sum(threads.values()))
        own = (spell.front + spell.workers) / self._planner.budget.cores
        return Sample(
            at_ns=self._usage.at_ns,
            done_ms=done_ms,
            waiting=self._load.crowded(threads),
            # What others take of the cores is not there for a thread more.
            busy=min(1.0, max(own, 1 - spell.idle / spell.cores)),
            throttled=spell.throttled,
        )


def _named(numbers: Numbers) -> str:
    return ", ".join(f"threads.{modality.value} {number}" for modality, number in numbers.items())
