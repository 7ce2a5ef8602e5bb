"""How many processes and threads each kind of work gets: what the settings say, else what the budget suggests.

Pure: a budget in, a plan out, and for each of its numbers the reason. It never reads the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from annotated_types import Ge

from sidecar.errors import SettingsError
from sidecar.media import Modality
from sidecar.stages.admit.gate import BARE_BYTES, FRONT_BYTES
from sidecar.workers.budget import Budget

# Up to this many cores each has a process, so that a crash stops one core's work; past it processes get
# several threads, since each costs memory of its own and Python's lock is free for nine tenths of a job.
_CORES_ALONE: Final = 4
_CORES_TOGETHER: Final = 4
# The part of the cores for small items, as Persephone reserves it (Demoulin, SOSP'21); here nothing is reserved,
# for the kernel gives the rest what they do not use.
_EXPRESS: Final = 0.1
# The part of a quota that the front uses while it keeps threads busy (0.15 s for each second of theirs, at 1080p). Of
# cores it needs no reserve, for the kernel lets it run before the workers; a quota stops whoever comes last.
_FRONT: Final = 0.13
# Threads a CPU that may be asked for: past it they do nothing but wait for each other.
_MOST_A_CPU: Final = 8


@dataclass(frozen=True, slots=True)
class ThreadsConfig:
    """Threads a pool; 0 takes the plan's own number.

    `image` and `audio` bound how many items of the modality are decoded at once, over all processes; `probe`
    bounds how many headers are read at once. `express`: threads beside them for small items alone, which the
    kernel lets run before the others; null takes the plan's own number, 0 has none.
    """

    image: Annotated[int, Ge(0)] = 0
    audio: Annotated[int, Ge(0)] = 0
    probe: Annotated[int, Ge(0)] = 0
    express: Annotated[int, Ge(0)] | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a number is what it is: what it is of, the number, whether the settings say so, and why in words."""

    what: str
    number: int
    is_set: bool
    why: str


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Worker processes, 0 for none; threads a pool over all of them, each at least 1; threads for small items
    alone, each in a process of its own where there are processes. `cpus` are those that processes keep to, each to its
    own part; none for no such bounds. `reasons` has one for every number.
    """

    processes: int
    image_threads: int
    audio_threads: int
    probe_threads: int
    express_threads: int = 0
    cpus: tuple[int, ...] = ()
    reasons: tuple[Reason, ...] = field(default=(), compare=False)

    @property
    def threads(self) -> Mapping[Modality, int]:
        return {Modality.IMAGE: self.image_threads, Modality.AUDIO: self.audio_threads}

    @property
    def threads_per_process(self) -> Mapping[Modality, int]:
        """What one process runs at once; rounded up, while the gate keeps to the plan's totals."""
        each = max(1, self.processes)
        return {modality: -(-threads // each) for modality, threads in self.threads.items()}

    def cpus_of(self, process: int) -> tuple[int, ...]:
        """The CPUs that the process of this number keeps to; none for all."""
        return (
            self.cpus[process :: self.processes] or self.cpus[process % len(self.cpus) :][:1]
            if self.cpus
            else ()
        )

    def __str__(self) -> str:
        where = f"{self.processes} worker processes" if self.processes else "the front process"
        return (
            f"{self.image_threads} image and {self.audio_threads} audio threads in {where}, "
            f"{self.probe_threads} for probe, {self.express_threads} for small items alone"
        )


def plan_threads(
    config: ThreadsConfig, processes: int | None, budget: Budget, *, pin: bool = False
) -> ThreadPlan:
    """A thread for every core of the budget for pictures, as many for sounds, one for probe, and for small items a
    tenth of the cores, which costs the others nothing while there are none.

    Decoders release the interpreter lock for most of their time, so a thread a core fills the machine. `processes`
    None takes the plan's own: one a thread up to four, then one for every four. `pin` keeps each process to its part of
    the CPUs, where these are this container's alone. Raises SettingsError for numbers that cannot be.
    """
    cores, why = _working_cores(budget)
    reasons: list[Reason] = []

    def chosen(key: str, told: int | None, own: int, why: str) -> int:
        number = own if told is None else told
        is_set = told is not None
        reasons.append(
            Reason(key, number, is_set, f"set by hand; the plan's own is {own}" if is_set else why)
        )
        return number

    image = chosen("threads.image", config.image or None, cores, why)
    audio = chosen(
        "threads.audio",
        config.audio or None,
        cores,
        "as many as pictures: where only sounds come they fill the cores too",
    )
    probe = chosen("threads.probe", config.probe or None, 1, "headers of sounds take a millisecond each")
    express = chosen(
        "threads.express",
        config.express,
        max(1, round(_EXPRESS * len(budget.cpus))),
        "a tenth of the cores, one at least: small items do not wait behind large ones, and what these threads leave "
        "the others use",
    )
    room = _room(budget, express)
    own = min(image, room, max(min(cores, _CORES_ALONE), -(-cores // _CORES_TOGETHER)))
    count = chosen("workers.processes", processes, own, _why_processes(cores, own, room))
    cpus = budget.cpus if pin and budget.exclusive and count else ()
    plan = ThreadPlan(count, image, audio, probe, express, cpus, tuple(reasons))
    _check(plan, budget, room)
    return plan


def _room(budget: Budget, express: int) -> int:
    """Processes that memory has room for, beside those for small items; one at least."""
    return max(1, (budget.memory_bytes - FRONT_BYTES) // BARE_BYTES - express)


def _working_cores(budget: Budget) -> tuple[int, str]:
    """Cores for threads that decode, at least one, and why so many."""
    if not budget.is_throttled:
        return len(budget.cpus), (
            f"a thread for each of {len(budget.cpus)} CPUs; the front needs no reserve: the kernel lets it run first"
        )
    # Half down: a thread too many is stopped with the front beside it, a thread too few leaves half a core.
    left = budget.cores * (1 - _FRONT)
    return max(1, math.ceil(left - 0.5)), (
        f"a quota of {budget.cores:g} cores, less {_FRONT:.0%} for the front, leaves {left:.2g}: a thread more than "
        "that is stopped by the kernel, and the front with it"
    )


def _why_processes(cores: int, own: int, room: int) -> str:
    if own == room and cores > room:
        return f"memory has room for no more: each takes {BARE_BYTES >> 20} MiB of its own"
    if cores <= _CORES_ALONE:
        return "a process a core, so that a crash stops one core's work"
    return f"a process for every {_CORES_TOGETHER} cores, for each takes {BARE_BYTES >> 20} MiB of its own"


def _check(plan: ThreadPlan, budget: Budget, room: int) -> None:
    """Raises SettingsError for a plan that cannot be."""
    most = _MOST_A_CPU * len(budget.cpus)
    for key, number in (
        ("threads.image", plan.image_threads),
        ("threads.audio", plan.audio_threads),
        ("threads.probe", plan.probe_threads),
        ("threads.express", plan.express_threads),
    ):
        if number > most:
            raise _refused(
                key, number, most, f"on {len(budget.cpus)} CPUs so many threads only wait for each other"
            )
    threads = plan.image_threads + plan.audio_threads
    if plan.processes > threads:
        why = f"`threads.image` and `threads.audio` are {threads} together, and a process without a thread does nothing"
        raise _refused("workers.processes", plan.processes, threads, why)
    if plan.processes > room:
        why = (
            f"each takes {BARE_BYTES >> 20} MiB by itself, and of the memory limit of {budget.memory_bytes >> 20} MiB "
            f"the front and the {plan.express_threads} for small items take their parts"
        )
        raise _refused("workers.processes", plan.processes, room, why)


def _refused(key: str, value: int, most: int, why: str) -> SettingsError:
    return SettingsError(
        f"`{key}` has the value {value}, and at most {most} can be: {why}",
        key=key,
        value=value,
        allowed=f"up to {most}",
    )
