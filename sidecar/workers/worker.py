"""A worker's work: decode, transform, pack, and nothing else.

It never opens a socket, never waits, and knows its caller only by the job. It never raises: what went
wrong is in what it gives back, beside the time and CPU that were spent all the same.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.deadline import Deadline
from sidecar.errors import InternalError, SidecarError
from sidecar.media import DataType, DecodeTarget, Frames, Looked, MediaInfo, Shaped, Source, Tensor
from sidecar.observe.timings import Mark, Stage, Timeline
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode import decode, give_back
from sidecar.stages.pack import pack, packed_bytes

log = logging.getLogger(__name__)

# A job may take the decoded picture, its outputs and 8 MiB. Beside the picture lies what transform leaves, until pack
# has written it; as much again where it was laid on a canvas, and up to that in huge pages that are used in part.
# By how much all this may pass _SPARE, so much of the picture is given back. 12 MP to Qwen2-VL took 37 MiB above
# picture and outputs, and takes 1, for 4 % of its time (8 ms); 1080p pays 2 of 33 ms, and models that make of a
# picture 2.7 MiB or less pay nothing.
_FOLD: Final = 3
_SPARE: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where an output is written: `at` in bytes from the arena's start, `data` the room there is."""

    at: int
    data: memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """One item to prepare: its bytes and facts, by which recipe, into which element types.

    An optional output of the recipe that `data_types` does not name is not made: the model has no use for it.
    `source_at` is where the source's bytes begin in the arena, None where they lie elsewhere; `outlets` say
    where each output goes, None leaves them in memory of their own.
    """

    source: Source
    info: MediaInfo
    recipe: Recipe
    target: DecodeTarget
    data_types: Mapping[str, DataType]
    deadline: Deadline
    source_at: int | None = None
    outlets: Mapping[str, Outlet] | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An ended job: its tensors, or the problem that ended it; when its stages were; milliseconds of one core.

    `needed` is not empty where an outlet was too small: then it says how many bytes each output takes, and
    nothing was written.
    """

    tensors: tuple[Tensor, ...]
    problem: SidecarError | None
    marks: Sequence[Mark]
    cpu_ms: float
    needed: Mapping[str, int] = field(default_factory=dict)


def work(job: Job) -> Done:
    """Runs a job on the calling thread. A step that would be too late is not begun (DeadlineExceeded)."""
    timeline = Timeline()
    cpu_begun = time.thread_time_ns()
    tensors: tuple[Tensor, ...] = ()
    needed: Mapping[str, int] = {}
    problem: SidecarError | None = None
    try:
        shaped = _shape(job, timeline)
        with timeline.measure(Stage.PACK):
            needed = _too_much(job, shaped)
            tensors = () if needed else _pack(job, shaped)
    except SidecarError as error:
        problem = error.bare()
    except Exception:
        log.exception("preparing %s as %s failed", job.info.format, job.recipe.processor)
        problem = InternalError(
            f"{job.source.label} could not be prepared: a fault of the server; its log tells more"
        )
    return Done(tensors, problem, timeline.marks, (time.thread_time_ns() - cpu_begun) / 1e6, needed)


def _shape(job: Job, timeline: Timeline) -> list[Shaped]:
    job.deadline.check(Stage.DECODE.value)
    with timeline.measure(Stage.DECODE):
        frames = decode(job.source, job.info, job.target)
    job.deadline.check(Stage.TRANSFORM.value)
    with timeline.measure(Stage.TRANSFORM):
        shaped = [each for each in _transform(job, frames) if each.name in job.data_types]
        del frames
        give_back(_FOLD * _left(shaped) - _SPARE)
        return shaped


def _transform(job: Job, frames: Frames) -> tuple[Shaped, ...]:
    """The recipe's transform, which knows no labels: what it raises is told of the item."""
    try:
        return job.recipe.transform(frames)
    except SidecarError as error:
        raise error.of(job.source.label) from error


def _left(shaped: list[Shaped]) -> int:
    """Bytes of pixels that pack is to read, those that are to be repeated once."""
    views = [part.view for item in shaped for part in item.parts if isinstance(part, Looked)]
    return sum(
        math.prod(n for n, step in zip(view.shape, view.strides, strict=True) if step) for view in views
    )


def _too_much(job: Job, shaped: list[Shaped]) -> Mapping[str, int]:
    """What the outputs take, where an outlet has less; else nothing."""
    if job.outlets is None:
        return {}
    needed = packed_bytes(shaped, job.data_types)
    fits = all(nbytes <= job.outlets[name].data.nbytes for name, nbytes in needed.items())
    return {} if fits else needed


def _pack(job: Job, shaped: list[Shaped]) -> tuple[Tensor, ...]:
    if job.outlets is None:
        return pack(shaped, job.data_types)
    tensors = pack(shaped, job.data_types, {name: outlet.data for name, outlet in job.outlets.items()})
    return tuple(replace(tensor, at=job.outlets[tensor.name].at) for tensor in tensors)
