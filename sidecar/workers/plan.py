"""How many processes and threads each kind of work gets: what the settings say, else what the machine suggests.

Pure: a core count in, a plan out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from sidecar.media import Modality

# Up to this many cores each has a process, so that a crash stops one core's work; past it processes get
# several threads, since each costs memory of its own and Python's lock is free for nine tenths of a job.
_CORES_ALONE = 4
_CORES_TOGETHER = 4
# The part of the cores for small items, as Persephone reserves it (Demoulin, SOSP'21); here nothing is reserved,
# for the kernel gives the rest what they do not use.
_EXPRESS = 0.1


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
class ThreadPlan:
    """Worker processes, 0 for none; threads a pool over all of them, each at least 1; threads for small items
    alone, each in a process of its own where there are processes.
    """

    processes: int
    image_threads: int
    audio_threads: int
    probe_threads: int
    express_threads: int = 0

    @property
    def threads(self) -> Mapping[Modality, int]:
        return {Modality.IMAGE: self.image_threads, Modality.AUDIO: self.audio_threads}

    @property
    def threads_per_process(self) -> Mapping[Modality, int]:
        """What one process runs at once; rounded up, while the gate keeps to the plan's totals."""
        each = max(1, self.processes)
        return {modality: -(-threads // each) for modality, threads in self.threads.items()}

    def __str__(self) -> str:
        where = f"{self.processes} worker processes" if self.processes else "the front process"
        return (
            f"{self.image_threads} image and {self.audio_threads} audio threads in {where}, "
            f"{self.probe_threads} for probe, {self.express_threads} for small items alone"
        )


def plan_threads(config: ThreadsConfig, processes: int | None, cores: int) -> ThreadPlan:
    """A thread a core for pictures, half as many for sound (seldom the larger share), one for probe.

    Decoders release the interpreter lock for most of their time, so a thread a core fills the machine.
    `processes` None takes the plan's own: one a core up to four, then one for every four. For small items a tenth
    of the cores, one at least; it costs the others nothing while there are none.
    """
    image = config.image or max(1, cores)
    if processes is None:
        processes = min(image, max(min(cores, _CORES_ALONE), -(-cores // _CORES_TOGETHER)))
    return ThreadPlan(
        processes=processes,
        image_threads=image,
        audio_threads=config.audio or max(1, cores // 2),
        probe_threads=config.probe or 1,
        express_threads=max(1, round(_EXPRESS * cores)) if config.express is None else config.express,
    )
