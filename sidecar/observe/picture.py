"""The live picture: what reply, status page, terminal and doctor all show, as values. Nothing here decides."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.media import Modality
from sidecar.observe.advice import Line
from sidecar.observe.demand import Demand
from sidecar.observe.gpus import Gpu
from sidecar.observe.machine import Spell
from sidecar.observe.verdict import Verdict


@dataclass(frozen=True, slots=True)
class LaneView:
    """A cost class of a modality: items that wait, and seconds of one core that they will take."""

    modality: Modality
    cost_class: int
    queued: int
    queued_cpu_s: float


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker process: how many cores' worth it used lately."""

    pid: int
    cores: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The plan as it is in force, and what waits and runs: items in the queue, with a worker, with model servers.

    `sandbox` says what confines workers.
    """

    processes: int
    threads: dict[Modality, int]
    express: int
    queued: int
    running: int
    handed: int
    lanes: tuple[LaneView, ...] = ()
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamView:
    """One model at the model server: its verdict, what would help, rows a second now and at most (0: not known).

    `models` are the served models that ask it; `counted`: the model server counts, so that its queue and executions
    are known and not inferred from answers alone; `note`: what a second witness says against it, or empty.
    """

    verdict: Verdict
    lines: tuple[Line, ...]
    models: tuple[str, ...]
    rows_per_s: float
    ceiling: float
    counted: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it, over the last `window_s` seconds."""

    window_s: float
    upstreams: tuple[UpstreamView, ...]
    demand: Demand
    spell: Spell | None
    fleet: Fleet
    workers: tuple[WorkerView, ...]
    gpus: tuple[Gpu, ...]
    under_way: int
