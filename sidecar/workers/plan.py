"""How many threads each kind of work gets: what the settings say, else what the machine suggests.

Pure: a core count in, a plan out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


@dataclass(frozen=True, slots=True)
class ThreadsConfig:
    """Threads a pool; 0 takes the plan's own number.

    `image` and `audio` bound how many items of the modality are decoded at once; `probe` bounds how
    many headers are read at once.
    """

    image: Annotated[int, Ge(0)] = 0
    audio: Annotated[int, Ge(0)] = 0
    probe: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads a pool, all at least 1."""

    image_threads: int
    audio_threads: int
    probe_threads: int


def plan_threads(config: ThreadsConfig, cores: int) -> ThreadPlan:
    """A thread a core for pictures, half as many for sound (seldom the larger share), one for probe.

    Decoders release the interpreter lock for most of their time, so a thread a core fills the machine.
    """
    return ThreadPlan(
        image_threads=config.image or max(1, cores),
        audio_threads=config.audio or max(1, cores // 2),
        probe_threads=config.probe or 1,
    )
