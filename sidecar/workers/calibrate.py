"""How fast this machine is, found at start-up by jobs whose cost on the table's machine is known.

A photograph, a PNG and a sound go through the real workers, to tensors, some rounds of them at once, as they will
under load. What the median job took, by what the table says of it, is the machine's factor. It takes 0.1 s or two
and is worth no more: it never fails the start, and where it cannot be done the table stands as it is until jobs
correct it. Nothing of it is kept or counted.
"""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import statistics
import struct
import wave
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sidecar.arena.lease import Lease
from sidecar.deadline import Deadline
from sidecar.media import Source
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.families import FAMILIES
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.cost import CostModel, Quote
from sidecar.stages.probe import probe
from sidecar.workers.worker import Done, Job, Outlet

log = logging.getLogger(__name__)

# Rounds, of which the first only warms the workers. Seven of three jobs take 60 ms of a core.
_ROUNDS: Final = 8
# What may go wrong goes wrong within this: a machine that needs longer is known to be slow by the first jobs.
_LONGEST_S: Final = 5.0
_PHOTOGRAPH: Final = Path(__file__).with_name("calibration.jpg")
"""Written by scripts/fit_costs.py."""
_PNG_SIZE: Final = (320, 240)
_SOUND_S: Final = 2
_SOUND_RATE: Final = 44_100

Room = Callable[[int], Lease | None]
"""A slot of so many bytes of the arena; None where there is none."""


Run = Callable[[Job, Sequence[Lease]], Awaitable[Done]]
"""What runs a job, and holds the slots until it has really ended: Workers.run with a ticket of its own."""


async def calibrate(model: CostModel, run: Run, room: Room) -> float | None:
    """Tells `model` how many times as long as the table's this machine takes, and returns that; None where it could
    not be found. Raises nothing but cancellation.
    """
    try:
        async with asyncio.timeout(_LONGEST_S):
            ratios = await _ratios(run, room)
    except Exception:
        log.warning("the cost model is not calibrated: jobs will correct it", exc_info=True)
        return None
    if not ratios:
        log.warning("the cost model is not calibrated, for no job succeeded: others will correct it")
        return None
    factor = statistics.median(ratios)
    model.calibrate(factor)
    log.info("the cost model is calibrated: this machine takes %.2f times as long as the table's", factor)
    return factor


async def _ratios(run: Run, room: Room) -> list[float]:
    """What each job took, by what the table says; of those that succeeded, but for the first round."""
    media = [
        (Source(data, label="calibration"), _recipe(processor))
        for data, processor in (
            (_PHOTOGRAPH.read_bytes(), "CLIPImageProcessor"),
            (_png(), "CLIPImageProcessor"),
            (_wav(), "WhisperFeatureExtractor"),
        )
    ]
    rounds = [
        await asyncio.gather(*(_once(source, recipe, run, room) for source, recipe in media))
        for _ in range(_ROUNDS)
    ]
    return [ratio for found in rounds[1:] for ratio in found if ratio is not None]


async def _once(source: Source, recipe: Recipe, run: Run, room: Room) -> float | None:
    """Runs one job in slots of the arena, as all jobs are run; None where it failed, or there was no room."""
    info, types = probe(source), {spec.name: spec.data_type for spec in recipe.outputs}
    target, sizes = recipe.decode_target(info), recipe.output_bytes(info, types)
    quote: Quote = CostModel().quote(info, target, recipe.workload(info, types))
    held = [lease for lease in (room(len(source.data)), room(sum(sizes.values()))) if lease is not None]
    try:
        if len(held) < 2:  # noqa: PLR2004 - its bytes, and its tensors
            return None
        inlet, berth = held
        inlet.view[:] = source.data
        outlets, at = {}, 0
        for name, size in sizes.items():
            outlets[name] = Outlet(berth.offset + at, berth.view[at : at + size])
            at += size
        laid = Source(inlet.view.toreadonly(), label=source.label)
        done = await run(
            Job(laid, info, recipe, target, types, Deadline.after(_LONGEST_S), inlet.offset, outlets), held
        )
    finally:
        for lease in held:
            lease.release()
    return None if done.problem is not None or done.needed else done.cpu_ms / quote.base_ms


@functools.cache
def _recipe(processor: str) -> Recipe:
    """The processor as it is where a model's files say nothing."""
    return FAMILIES[processor](Config("calibration", {}), processor, Choice(exact=False))


def _png() -> bytes:
    """Slopes with some noise, each byte by its left neighbour, as encoders store photographs."""
    width, height = _PNG_SIZE
    steps = np.random.default_rng(0).normal(0, 9, (height, width * 3)).astype(np.int8).view(np.uint8)
    rows = np.insert(steps, 0, 1, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    laid = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(laid)


def _wav() -> bytes:
    """Stereo noise of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(_SOUND_RATE)
        file.writeframes(
            np.random.default_rng(0).normal(0, 3000, 2 * _SOUND_S * _SOUND_RATE).astype("<i2").tobytes()
        )
    return out.getvalue()
