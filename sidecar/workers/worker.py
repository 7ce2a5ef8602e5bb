"""A worker's work: decode, transform, pack, and nothing else.

It never opens a socket, never waits, and knows its caller only by the job. It never raises: what went
wrong is in what it gives back, beside the time and CPU that were spent all the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.deadline import Deadline
from sidecar.errors import InternalError, SidecarError
from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Shaped, Source, Tensor
from sidecar.observe.timings import Stage, Timeline
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack

log = logging.getLogger(__name__)


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
    """An ended job: its tensors, or the problem that ended it; nanoseconds a stage; milliseconds of one core."""

    tensors: tuple[Tensor, ...]
    problem: SidecarError | None
    spent: Mapping[Stage, int]
    cpu_ms: float


def work(job: Job) -> Done:
    """Runs a job on the calling thread. A step that would be too late is not begun (DeadlineExceeded)."""
    timeline = Timeline()
    cpu_begun = time.thread_time_ns()
    tensors: tuple[Tensor, ...] = ()
    problem: SidecarError | None = None
    try:
        tensors = _walk(job, timeline)
    except SidecarError as error:
        problem = error.bare()
    except Exception:
        log.exception("preparing %s as %s failed", job.info.format, job.recipe.processor)
        problem = InternalError(
            f"{job.source.label} could not be prepared: a fault of the server; its log tells more"
        )
    return Done(tensors, problem, timeline.spent, (time.thread_time_ns() - cpu_begun) / 1e6)


def _walk(job: Job, timeline: Timeline) -> tuple[Tensor, ...]:
    job.deadline.check(Stage.DECODE.value)
    with timeline.measure(Stage.DECODE):
        frames = decode(job.source, job.info, job.target)
    job.deadline.check(Stage.TRANSFORM.value)
    with timeline.measure(Stage.TRANSFORM):
        shaped = _transform(job, frames)
    with timeline.measure(Stage.PACK):
        return pack([each for each in shaped if each.name in job.data_types], job.data_types)


def _transform(job: Job, frames: Frames) -> tuple[Shaped, ...]:
    """The recipe's transform, which knows no labels: what it raises is told of the item."""
    try:
        return job.recipe.transform(frames)
    except SidecarError as error:
        raise error.of(job.source.label) from error
