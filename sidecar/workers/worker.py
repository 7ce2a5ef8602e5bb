"""A worker's work: decode, transform, pack, and nothing else.

It never opens a socket, never waits, and knows its caller only by the job. What it raises is a
SidecarError; anything else is a fault of this program and is told as such by the caller.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.deadline import Deadline
from sidecar.media import DataType, DecodeTarget, MediaInfo, Source, Tensor
from sidecar.observe.timings import Stage, Timeline
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack


@dataclass(frozen=True, slots=True)
class Job:
    """One item to prepare: its bytes and facts, by which recipe, into which element types.

    An optional output of the recipe that `data_types` does not name is not made: the model has no use for it.
    """

    source: Source
    info: MediaInfo
    recipe: Recipe
    target: DecodeTarget
    data_types: Mapping[str, DataType]
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class Done:
    """A finished job: its tensors, nanoseconds a stage, and milliseconds of one core that it took."""

    tensors: tuple[Tensor, ...]
    spent: Mapping[Stage, int]
    cpu_ms: float


def work(job: Job) -> Done:
    """Runs a job on the calling thread. Raises DeadlineExceeded before a step that would be too late."""
    timeline = Timeline()
    cpu_begun = time.thread_time_ns()
    job.deadline.check(Stage.DECODE.value)
    with timeline.measure(Stage.DECODE):
        frames = decode(job.source, job.info, job.target)
    job.deadline.check(Stage.TRANSFORM.value)
    with timeline.measure(Stage.TRANSFORM):
        shaped = job.recipe.transform(frames)
    with timeline.measure(Stage.PACK):
        tensors = pack([each for each in shaped if each.name in job.data_types], job.data_types)
    return Done(tensors, timeline.spent, (time.thread_time_ns() - cpu_begun) / 1e6)
