"""What the sidecar says of its accelerators and of itself: frozen values, and the words for people.

Shares are parts of the window, 0 to 1; rates are rows a second; what is not known is None, never a zero that could be
taken for a figure. Nothing here knows the wire; `replies.py` fills these in.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from inference_client.results import Modality

# A key of the settings, "threads.image", is set; what is told in words, "cores (the node's)", is not.
_KEY: Final = re.compile(r"\w+(\.[\w-]+)+")
_NOBODY: Final = "no model server is watched: none is set, or none of its models is known yet"


class AcceleratorState(enum.StrEnum):
    """What an accelerator does, or waits for; every instant has exactly one.

    HUNG: the model server has work and gives no sign of life. IDLE_BATCH: its queue has work that it does not begin.
    IDLE_XFER: tensors are on their way to it. IDLE_PREP: requests are in preprocessing, and there is nothing else,
    which is starvation. IDLE_DEMAND: nobody asks.
    """

    UNKNOWN = "unknown"
    BUSY = "busy"
    HUNG = "hung"
    IDLE_BATCH = "idle_batch"
    IDLE_XFER = "idle_xfer"
    IDLE_PREP = "idle_prep"
    IDLE_DEMAND = "idle_demand"


class Cause(enum.StrEnum):
    """What starved time is charged to: the stage of the request nearest completion, or a CPU quota (THROTTLED)."""

    UNKNOWN = "unknown"
    RECEIVE = "receive"
    PROBE = "probe"
    ADMIT = "admit"
    THROTTLED = "throttled"
    DECODE = "decode"
    TRANSFORM = "transform"
    PACK = "pack"
    DELIVER = "deliver"


class Finding(enum.StrEnum):
    """What limits an accelerator's work: those who ask, itself, preprocessing, tensors on their way, its queue."""

    UNKNOWN = "unknown"
    NO_DEMAND = "no_demand"
    ACCELERATOR = "accelerator"
    STARVED = "starved"
    TRANSPORT = "transport"
    BATCH = "batch"
    HUNG = "hung"


class StarvationLevel(enum.StrEnum):
    """How much of the time was starved: MODERATE from 5 % on, SEVERE from 20 % on."""

    UNKNOWN = "unknown"
    NONE = "none"
    MODERATE = "moderate"
    SEVERE = "severe"


@dataclass(frozen=True, slots=True)
class StarvedTime:
    """Seconds that an accelerator was starved; `modality` is None for a call without media."""

    cause: Cause
    modality: Modality | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that would help: a key of the settings, or whose setting it is; what it is, and what it would be.

    `rows_per_s` are those now and `then_rows_per_s` those foretold, None where nothing can be foretold.
    """

    setting: str
    present: str
    proposed: str
    why: str
    rows_per_s: float | None = None
    then_rows_per_s: float | None = None

    def __str__(self) -> str:
        verb = "set " if _KEY.fullmatch(self.setting) else ""
        figures = (
            ""
            if self.rows_per_s is None or self.then_rows_per_s is None
            else f"; {_rate(self.rows_per_s)} rows/s would be {_rate(self.then_rows_per_s)} rows/s"
        )
        return f"{verb}{self.setting}: {self.present} -> {self.proposed}{figures}: {self.why}"


@dataclass(frozen=True, slots=True)
class UpstreamVerdict:
    """The verdict on one model at the model server. `print(verdict)` says it in a sentence.

    `models` are the served models that ask it. `cause` and `modality` tell what starved it most, None unless `finding`
    is STARVED. `alarm`: whether the alarm is on, `alarm_for_s` since how many seconds. `starved` is the part of the
    window in IDLE_PREP, `underfilled` the part that executions had room left which rows in preprocessing would have
    filled. `utilisation` is BUSY by the time in which somebody asked, None where nobody did. `states` are seconds of
    the window, `causes` those of IDLE_PREP. `ceiling_rows_per_s` is the most it could answer. `counted`: the model
    server counts, so that its queue and executions need not be inferred. `note` is what the GPU's driver says
    against all this, usually nothing.
    """

    upstream: str
    models: tuple[str, ...]
    finding: Finding
    level: StarvationLevel
    cause: Cause | None
    modality: Modality | None
    summary: str
    alarm: bool
    alarm_for_s: float
    starved: float
    underfilled: float
    utilisation: float | None
    states: Mapping[AcceleratorState, float]
    causes: tuple[StarvedTime, ...]
    advice: tuple[Advice, ...]
    rows_per_s: float
    ceiling_rows_per_s: float | None
    counted: bool
    note: str

    def __str__(self) -> str:
        return self.summary

    @property
    def shares(self) -> dict[AcceleratorState, float]:
        """The parts of the time by state; together they are 1, or all 0 where nothing was watched yet."""
        whole = sum(self.states.values())
        return {state: seconds / whole if whole else 0.0 for state, seconds in self.states.items()}


@dataclass(frozen=True, slots=True)
class StageLoad:
    """Wall time in a stage, summed over the calls, or their items, that ended in the window.

    Seconds by those of the window are how many of them were in it at once, on average.
    """

    stage: str
    modality: Modality | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Lane:
    """What waits for a worker, of one cost class: items, and the seconds of one core that they will take.

    Classes are 0 for up to 4 ms of one core, 1 up to 16, 2 up to 64, 3 up to 256, 4 for more.
    """

    modality: Modality
    cost_class: int
    queued: int
    queued_cpu_s: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, and how many cores it used lately."""

    pid: int
    cores: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The plan in force, and what is under way: calls; items that wait, that workers have, that model servers have.

    `sandbox` says in words what confines worker processes; empty where the sidecar is too old to tell.
    """

    processes: int
    image_threads: int
    audio_threads: int
    express_threads: int
    calls: int
    queued: int
    running: int
    handed: int
    workers: tuple[Worker, ...]
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as the sidecar may use it, in cores. `quota` is None where there is none.

    `throttled` is the part of the time, 0 to 1, for which the quota kept the sidecar from running.
    """

    cores: int
    quota: float | None
    front: float
    workers: float
    idle: float
    throttled: float


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as its driver has it: the parts of the time in which kernels ran, and of its memory that is taken."""

    index: int
    name: str
    utilisation: float
    memory: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Was the accelerator kept waiting, by what, and what would help: over the last `window_s` seconds.

    `print(diagnosis)` says it for people. `machine` is None until it was looked at twice; `gpus` is empty where there
    is no driver.
    """

    window_s: float
    upstreams: tuple[UpstreamVerdict, ...]
    stages: tuple[StageLoad, ...]
    lanes: tuple[Lane, ...]
    fleet: Fleet
    machine: Machine | None
    gpus: tuple[Gpu, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines()) or _NOBODY

    def _lines(self) -> Iterator[str]:
        for each in self.upstreams:
            yield each.summary
            for advice in each.advice:
                yield f"  {advice}"


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a model server answered live, and what while replayed tensors kept it fed: a second way to the same figure.

    `starved_by_rates` is the part of its work that it lacked input for by these rates, `starved_by_accounts` by the
    accounts that verdicts rest on; `agree`: they differ by at most 0.05. `print(check)` says it in a sentence.
    """

    upstream: str
    live_rows_per_s: float
    fed_rows_per_s: float
    starved_by_rates: float
    starved_by_accounts: float
    agree: bool
    summary: str

    def __str__(self) -> str:
        return self.summary


def _rate(rows_per_s: float) -> str:
    """As people read it: whole numbers from ten on."""
    return f"{rows_per_s:.0f}" if rows_per_s >= 10 else f"{rows_per_s:.1f}"  # noqa: PLR2004 - as told above
