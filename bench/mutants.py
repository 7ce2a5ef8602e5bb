"""Mutated files through all that the server does with a file, in processes that may die of it.

What a child does is what front and worker do: sniff, probe, limits, decode, transform, pack. Whatever the bytes are, a
mutant ends in tensors or in an error that is its sender's, takes no more memory than was foretold of it and a bound,
and less CPU time than its lease. A child that dies, or goes on past the lease, loses one mutant: the next child
goes on behind it. Tallies lie in memory that parent and child share, so they outlive the child.

`python -m bench.mutants FORMAT NUMBER...` runs single mutants, and says what becomes of each.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

from sidecar.deadline import Deadline
from sidecar.errors import CallerError, CorruptMedia, MediaError, MediaTooLarge, SidecarError
from sidecar.media import DecodeTarget, ImageInfo, Source
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.cost import decoded_bytes
from sidecar.stages.admit.limits import Limits
from sidecar.stages.probe import AUDIO_FORMATS, IMAGE_FORMATS, probe
from sidecar.workers.worker import Job, work
from testbed.hostile.mutate import Mutator
from testbed.memory import peak, renewed_peak

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_ROOT: Final = Path(__file__).parents[1]
CORPUS: Final = _ROOT / "tests" / "corpus"
CHECKPOINTS: Final = _ROOT / "testbed" / "checkpoints"

LEASE_S: Final = 10.0
"""Of CPU time; a server's own default (`workers.lease_s`). Of the clock, six times as long: others use this machine."""

LIMITS: Final = Limits(image_pixels=4_000_000, image_side=8_192, decoded_bytes=24 << 20, audio_seconds=60.0)
"""Tight, so that what a header claims in vain is cheap, and what passes them stands out."""

SPARE: Final = 24 << 20
"""Bytes that a mutant may take beside what is foretold: 16 MiB of metadata, which probe looks at at most, and 8 MiB
as every job may (workers/worker.py)."""

# Of the picture that is foretold: Pillow holds 4 bytes a pixel beside its 3, and turns a copy.
_TIMES: Final = 4

# How a mutant can end, as they are counted.
ENDS: Final = ("decoded", "unsupported", "corrupt", "too_large", "refused", "outside")

# What the seeds' endings say that they are, where it is not the format's own name.
_ENDINGS: Final = {"jpg": "jpeg", "tif": "tiff", "m4a": "mp4", "opus": "ogg"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the mutants of a format. `harm` names those that broke a promise, and which."""

    format: str
    mutants: int
    ends: Mapping[str, int]
    worst_cpu_ms: float
    worst_excess_bytes: int
    harm: Sequence[str] = field(default=())
    crashes: int = 0
    hangs: int = 0
    over_memory: int = 0


class _Shared(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_int64),
        ("cpu_begun_ns", ctypes.c_int64),
        ("begun_ns", ctypes.c_int64),
        ("ends", ctypes.c_int64 * len(ENDS)),
        ("worst_cpu_ns", ctypes.c_int64),
        ("worst_excess", ctypes.c_int64),
        ("over_memory", ctypes.c_int64),
    )


def mutator(name: str) -> Mutator:
    """Mutants of a format, from the good files of it in the tests' corpus and from broken ones."""
    files = {
        path: path.read_bytes()
        for folder in ("image", "audio", "broken")
        for path in (CORPUS / folder).iterdir()
    }
    ends = {path: path.suffix.removeprefix(".") for path in files}
    seeds = [
        data
        for path, data in sorted(files.items())
        if path.parent.name != "broken" and _ENDINGS.get(ends[path], ends[path]) == name
    ]
    return Mutator(name, seeds, [data for _, data in sorted(files.items())])


def verdict(
    name: str, count: int, first: int = 0, seen: Callable[[int], None] = lambda _pid: None
) -> Verdict:
    """Runs so many mutants of a format, in a child at a time; `seen` is told of each that is at work, now and then."""
    context = multiprocessing.get_context("spawn")
    shared: Any = context.Value(_Shared, lock=False)
    harm: list[str] = []
    crashes = hangs = 0
    at, end = first, first + count
    while at < end:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(name, at, end, shared, theirs))
        shared.number, shared.begun_ns, shared.cpu_begun_ns = at - 1, 0, 0
        child.start()
        theirs.close()
        hung = ""
        while child.is_alive():
            child.join(0.2)
            harm += _said(ours)  # a pipe that is full would hold the child up
            if shared.number >= at:
                seen(child.pid or 0)
            number = shared.number
            if child.is_alive() and (hung := _hangs(child.pid or 0, shared)):
                _told_where(child)
                if shared.number == number:
                    child.kill()
        harm += _said(ours)
        if child.exitcode == 0:
            break
        if shared.number < at:
            raise RuntimeError(f"the child for {name} could not begin: exit code {child.exitcode}")
        hangs, crashes = hangs + bool(hung), crashes + (not hung)
        harm.append(f"{name} {shared.number}: {hung or f'ended its process ({child.exitcode})'}")
        at = shared.number + 1
    return Verdict(
        name,
        count,
        dict(zip(ENDS, shared.ends, strict=True)),
        round(shared.worst_cpu_ns / 1e6, 3),
        shared.worst_excess,
        tuple(harm),
        crashes,
        hangs,
        shared.over_memory,
    )


def _hangs(pid: int, shared: Any) -> str:  # noqa: ANN401 - ctypes' fields have no types
    """For how long a mutant has gone on past its lease; empty while it has not."""
    begun_ns, cpu_begun_ns = shared.begun_ns, shared.cpu_begun_ns
    if not begun_ns:
        return ""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent_s = (int(fields[11]) + int(fields[12])) / _TICKS - cpu_begun_ns / 1e9
        gone_s = (time.monotonic_ns() - begun_ns) / 1e9
        if (spent_s > LEASE_S or gone_s > 6 * LEASE_S) and shared.begun_ns == begun_ns:
            return f"hangs: {spent_s:.1f} s of CPU, {gone_s:.1f} s of the clock"
    return ""


def _told_where(child: BaseProcess) -> None:
    """Has a child that hangs write all its threads' stacks to stderr, where it can still do that."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid or 0, signal.SIGUSR1)
    child.join(1.0)


def _said(ours: Connection) -> list[str]:
    said = []
    with contextlib.suppress(EOFError, OSError):
        while ours.poll():
            said.append(str(ours.recv()))
    return said


def _child(name: str, first: int, end: int, shared: Any, theirs: Connection) -> None:  # noqa: ANN401 - as above
    faulthandler.register(signal.SIGUSR1)
    prepared = Prepared(name)
    mutants = mutator(name)
    for turn in range(6):
        prepared.outcome(mutants.seeds[0], turn)  # what is loaded at first use
    with threadpool_limits(1):
        for number in range(first, end):
            shared.begun_ns = 0  # making a mutant may take longer than a lease, and is nobody's fault
            shared.number = number
            mutant = mutants.mutant(number)
            shared.cpu_begun_ns = time.process_time_ns()
            shared.begun_ns = time.monotonic_ns()
            found = prepared.outcome(mutant, number)
            shared.ends[ENDS.index(found.end)] += 1
            shared.worst_cpu_ns = max(shared.worst_cpu_ns, found.cpu_ns)
            shared.worst_excess = max(shared.worst_excess, found.excess)
            if found.excess > SPARE:
                shared.over_memory += 1
                theirs.send(f"{name} {number}: {found.excess} bytes more than foretold")
            if found.end == "outside":
                theirs.send(f"{name} {number}: {found.words}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a file ended: one of ENDS, CPU time, bytes of memory beyond what was foretold of it, and what was said."""

    end: str
    cpu_ns: int
    excess: int
    words: str = ""


class Prepared:
    """All recipes that files of a format are put before, each in its turn."""

    def __init__(self, name: str) -> None:
        self._recipes = _pictures() if name in IMAGE_FORMATS else _sounds()

    def outcome(self, data: bytes, turn: int) -> Outcome:
        """What becomes of a file; never raises."""
        recipe = self._recipes[turn % len(self._recipes)]
        # As the front has bytes, or as a worker has them.
        source = Source(memoryview(data) if turn & 1 else data)
        held = renewed_peak()
        begun = time.process_time_ns()
        foretold, words = 2 * len(data), ""
        try:
            foretold, problem = _prepared(source, recipe)
            end, words = _end_of(problem) if problem is not None else ("decoded", "")
        except SidecarError as error:
            end, words = _end_of(error)
        except BaseException:  # noqa: BLE001 - it is what is looked for
            end, words = "outside", traceback.format_exc()
        spent = time.process_time_ns() - begun
        return Outcome(end, spent, max(0, peak() - held - foretold), words)


def _prepared(source: Source, recipe: Recipe) -> tuple[int, SidecarError | None]:
    """Bytes that were foretold of a file, and the error that it ended in at a worker."""
    info = probe(source)
    if info.modality is not recipe.modality:
        raise CorruptMedia("of another modality than its format")
    target = recipe.decode_target(info)
    LIMITS.check(source, info, target)
    types = {spec.name: spec.data_type for spec in recipe.outputs}
    outputs = sum(recipe.output_bytes(info, types).values())
    most = LIMITS.max_decoded_bytes(info, target)
    job = Job(source, info, recipe, _bounded(target, most), types, Deadline(None))
    done = work(job)
    foretold = _TIMES * max(most, decoded_bytes(info, target) if isinstance(info, ImageInfo) else most)
    return foretold + 3 * outputs + 2 * len(source.data), done.problem


def _bounded(target: DecodeTarget, most: int) -> DecodeTarget:
    return DecodeTarget(target.rate, most, target.max_seconds, target.white_transparency, target.least_size)


def _end_of(error: SidecarError) -> tuple[str, str]:
    words = f"{type(error).__name__}: {error.message}"
    match error:
        case MediaTooLarge():
            return "too_large", words
        case CorruptMedia():
            return "corrupt", words
        case MediaError():
            return "unsupported", words
        case CallerError():
            return "refused", words
    return "outside", words


def _pictures() -> list[Recipe]:
    clip, qwen = CHECKPOINTS / "clip-vit-base-patch32", CHECKPOINTS / "qwen2-vl-2b-instruct"
    return [
        load_recipe(clip, exact=False),
        load_recipe(clip, exact=False, fast=True),
        load_recipe(qwen, exact=False),
    ]


def _sounds() -> list[Recipe]:
    whisper, wav2vec = CHECKPOINTS / "whisper-tiny", CHECKPOINTS / "wav2vec2-base-960h"
    return [
        load_recipe(whisper),
        load_recipe(wav2vec),
        load_recipe(whisper, resampler="swresample"),
    ]


def _main(name: str, numbers: Sequence[str]) -> None:
    prepared, mutants = Prepared(name), mutator(name)
    for number in map(int, numbers):
        data = mutants.mutant(number)
        with contextlib.suppress(SidecarError):
            print(probe(Source(data)))  # noqa: T201 - a command's output
        found = prepared.outcome(data, number)
        print(number, len(data), found.end, f"{found.cpu_ns / 1e6:.1f} ms", found.excess, found.words)  # noqa: T201


FORMATS: Final = (*IMAGE_FORMATS, *AUDIO_FORMATS)

if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
