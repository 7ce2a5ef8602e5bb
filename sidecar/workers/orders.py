"""What crosses between the front and a worker process: descriptors, never media and never tensors.

An order says where in the arena an item's bytes lie and where its outputs go; a report says what became
of it. Orders are pickled, for the front is trusted. Reports are JSON and every field is checked: a worker
has just read hostile bytes with C libraries, and what it says must not be able to run code in the front,
or point it at memory that is not the job's own.
"""

from __future__ import annotations

import functools
import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.deadline import Deadline
from sidecar.errors import InternalError, rebuilt
from sidecar.media import DataType, DecodeTarget, MediaInfo, Source, Tensor
from sidecar.observe.timings import Mark, Stage
from sidecar.recipes.recipe import Recipe
from sidecar.workers.worker import Done, Job, Outlet

MOST_BYTES = 64 * 1024
"""The longest order or report. A message of a channel that keeps their bounds is cut at what its reader
makes room for, so longer ones are refused before they are sent. The longest seen is a tenth of it."""


@dataclass(frozen=True, slots=True)
class _Order:
    """A job in descriptors; `source` and `outlets` are (offset, bytes) in the arena."""

    number: int
    source: tuple[int, int]
    content_type: str
    label: str
    info: MediaInfo
    recipe: bytes
    target: DecodeTarget
    data_types: Mapping[str, DataType]
    deadline_ns: int | None
    outlets: Mapping[str, tuple[int, int]]


def lay_order(number: int, job: Job) -> bytes:
    """A job as an order; its bytes and its outlets must lie in the arena."""
    if job.outlets is None or job.source_at is None:
        raise InternalError("a worker process knows the arena only, and the job lies elsewhere")
    laid = pickle.dumps(
        _Order(
            number,
            (job.source_at, len(job.source.data)),
            job.source.content_type,
            job.source.label,
            job.info,
            _laid_recipe(job.recipe),
            job.target,
            dict(job.data_types),
            job.deadline.at_ns,
            {name: (outlet.at, outlet.data.nbytes) for name, outlet in job.outlets.items()},
        ),
        pickle.HIGHEST_PROTOCOL,
    )
    if len(laid) > MOST_BYTES:
        raise InternalError(
            f"an order of {len(laid)} bytes is longer than {MOST_BYTES}: {job.source.label:.80}"
        )
    return laid


def read_order(laid: bytes, arena: memoryview) -> tuple[int, Job]:
    """An order's number and its job, over the worker's own mapping of the arena."""
    order: _Order = pickle.loads(laid)  # noqa: S301 - the front's own words, over a channel nobody else has
    at, nbytes = order.source
    outlets = {
        name: Outlet(start, arena[start : start + size]) for name, (start, size) in order.outlets.items()
    }
    return order.number, Job(
        Source(arena[at : at + nbytes].toreadonly(), order.content_type, order.label),
        order.info,
        _read_recipe(order.recipe),
        order.target,
        order.data_types,
        Deadline(order.deadline_ns),
        at,
        outlets,
    )


def lay_report(number: int, done: Done) -> bytes:
    """What became of an order."""
    problem = done.problem
    report = {
        "number": number,
        "tensors": [[tensor.name, tensor.data_type.value, tensor.shape] for tensor in done.tensors],
        "problem": None if problem is None else [type(problem).__name__, problem.message, problem.facts],
        "marks": [[stage.value, begun, ended] for stage, begun, ended in done.marks],
        "cpu_ms": done.cpu_ms,
        "needed": dict(done.needed),
    }
    laid = json.dumps(report).encode()
    if len(laid) > MOST_BYTES:
        return lay_report(
            number, Done((), InternalError("the item's report is too long"), done.marks, done.cpu_ms)
        )
    return laid


def report_number(laid: bytes) -> tuple[int, Mapping[str, Any]]:
    """Which order a report answers, and the rest of it for `read_report`. Raises ValueError for nonsense."""
    report = json.loads(laid)
    if not isinstance(report, dict) or not isinstance(report.get("number"), int):
        raise ValueError("a report without a number")  # noqa: TRY004 - nonsense is nonsense
    return report["number"], report


def read_report(report: Mapping[str, Any], job: Job) -> Done:
    """What became of `job`. Raises ValueError for what no honest worker says of it."""
    try:
        outlets = job.outlets or {}
        tensors = tuple(_tensor(name, kind, shape, outlets) for name, kind, shape in report["tensors"])
        if tensors and {tensor.name for tensor in tensors} - job.data_types.keys():
            raise ValueError("outputs that were not asked for")
        problem = None
        if report["problem"] is not None:
            kind, message, facts = report["problem"]
            problem = rebuilt(str(kind), str(message), {str(key): str(value) for key, value in facts.items()})
        return Done(
            tensors,
            problem,
            [_mark(*mark) for mark in report["marks"]],
            float(report["cpu_ms"]),
            {str(name): int(nbytes) for name, nbytes in report["needed"].items() if name in outlets},
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a report that cannot be read ({type(error).__name__})") from error


def _mark(stage: str, begun_ns: int, ended_ns: int) -> Mark:
    """When a stage was, by the worker's word: later than never, and not before it began."""
    if not (isinstance(begun_ns, int) and isinstance(ended_ns, int) and 0 <= begun_ns <= ended_ns):
        raise ValueError("a stage that ended before it began")
    return Stage(stage), begun_ns, ended_ns


def _tensor(name: str, data_type: str, shape: Sequence[int], outlets: Mapping[str, Outlet]) -> Tensor:
    """A tensor at the start of its outlet: the worker says how large it is, and never where; of BYTES, one element."""
    outlet = outlets[name]
    kind = DataType(data_type)
    nbytes = kind.itemsize
    for length in shape:
        if not isinstance(length, int) or length < 0:
            raise ValueError("a length that is none")
        nbytes *= length
    if kind is DataType.BYTES:
        if shape or outlet.data.nbytes < _LENGTH.size:
            raise ValueError("other than one element of BYTES")
        nbytes = _LENGTH.size + _LENGTH.unpack_from(outlet.data)[0]
    if nbytes > outlet.data.nbytes:
        raise ValueError("a tensor larger than its outlet")
    return Tensor(name, kind, tuple(shape), outlet.data[:nbytes], outlet.at)


_LENGTH: Final = struct.Struct("<I")

_laid: dict[int, tuple[Recipe, bytes]] = {}


def _laid_recipe(recipe: Recipe) -> bytes:
    """A recipe pickled once; kept beside its recipe, so that its id stays its own. There are as many
    entries as models, and one more for each recipe that settings brought while the server ran.
    """
    known = _laid.get(id(recipe))
    if known is None:
        known = _laid[id(recipe)] = (recipe, pickle.dumps(recipe, pickle.HIGHEST_PROTOCOL))
    return known[1]


@functools.lru_cache(maxsize=256)
def _read_recipe(laid: bytes) -> Recipe:
    recipe: Recipe = pickle.loads(laid)  # noqa: S301 - as the order it comes with
    return recipe
