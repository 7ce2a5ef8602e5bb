"""How many cores, how much memory and how many replicas a stream of media takes, before any of it has come.

By the same predictions that admission lets calls in by: an item's cost from its facts and its recipe. Cores are demand
by a bound on their use (the utilisation law: U = X · D / m); room is what may be under way at once.

Pure arithmetic. It never reads the machine, and says every number that it assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.media import Modality
from sidecar.stages.admit.gate import BARE_BYTES, FRONT_BYTES
from sidecar.workers.plan import ThreadPlan

USE: Final = 0.85
"""How much of the cores is planned to be used: past it queues grow fast (design/starvation: 0.85)."""
FRONT_USE: Final = 0.7
"""How much of one core a front may use: it is one thread that every call passes. Out of the air."""
# The front's CPU time of a call with one item on the table's machine: 1.42 ms with 76 KiB, 1.99 with 384, 6.28 with
# 2804 (bench/results/efficiency.json).
_CALL_MS: Final = 1.3
_CALL_MS_A_MIB: Final = 1.8
# Inferences that a model server has before it has answered: two batches of 16, where nothing is known.
UPSTREAM_ITEMS: Final = 32
# Decoding holds more than it leaves: 7 bytes a pixel for 3 (stages/admit/cost.py).
_WHILE_DECODING: Final = 7 / 3
# A queue of so many seconds is held as encoded bytes (`gate.patience_s`), of at most so many items (`gate.max_queued`).
_QUEUED_S: Final = 5.0
_MOST_QUEUED: Final = 512
# A slot is a power of two of bytes and an arena is never full to the last: half as much again.
_SPARE: Final = 1.5
_MIB: Final = 1 << 20
_LEAST_ARENA: Final = 64 * _MIB
_ARENA_STEP: Final = 64 * _MIB
_MEMORY_STEP: Final = 256 * _MIB
# Beside the slots: the object's own header, and what others keep at /dev/shm.
SHM_SPARE: Final = 16 * _MIB


@dataclass(frozen=True, slots=True)
class Stream:
    """Items of one kind for one model: `rate` a second; what one takes of a worker, in milliseconds of a core here, and
    in bytes: as it comes, as decode leaves it, as the tensors that are made of it.
    """

    model: str
    media: str
    modality: Modality
    rate: float
    cpu_ms: float
    encoded_bytes: int
    decoded_bytes: int
    tensor_bytes: int

    def front_ms(self, factor: float) -> float:
        """What a call with one such item takes of the front, on a machine that takes so many times the table's."""
        return factor * (_CALL_MS + _CALL_MS_A_MIB * self.encoded_bytes / _MIB)


@dataclass(frozen=True, slots=True)
class Demand:
    """Cores that streams take: workers', and fronts'."""

    workers: float
    front: float

    @property
    def cores(self) -> float:
        return self.workers + self.front


@dataclass(frozen=True, slots=True)
class Split:
    """Replicas of so many cores each; which part of these the demand uses, and which part of a core each front."""

    replicas: int
    cores: int
    used: float
    front_used: float

    @property
    def headroom(self) -> float:
        """How many times the stated rates they can do, until cores or fronts are full."""
        return 1 / max(self.used, self.front_used)


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a replica: the arena's slots, /dev/shm for them, and the memory limit that holds all of it."""

    arena: int
    shm: int
    memory: int


def demand(streams: Sequence[Stream], factor: float) -> Demand:
    """What all streams take together."""
    return Demand(
        sum(each.rate * each.cpu_ms for each in streams) / 1e3,
        sum(each.rate * each.front_ms(factor) for each in streams) / 1e3,
    )


def split(wanted: Demand, most_cores: int | None = None) -> Split:
    """Replicas for a demand: one with as many cores as it takes, unless its front would be the limit, or a replica may
    have `most_cores` only. Two cores each where it may: one for a worker, and one for the rest.
    """
    replicas = max(1, math.ceil(wanted.front / FRONT_USE))
    if most_cores is not None:
        replicas = max(replicas, math.ceil(wanted.cores / USE / most_cores))
    each = max(2, math.ceil(wanted.cores / USE / replicas))
    each = each if most_cores is None else min(each, most_cores)
    return Split(replicas, each, wanted.cores / (replicas * each), wanted.front / replicas)


def room(streams: Sequence[Stream], plan: ThreadPlan, replicas: int) -> Room:
    """What a replica with this plan needs. The largest items are taken to come together."""
    threads = max(plan.threads.values()) + plan.express_threads
    encoded = max(each.encoded_bytes for each in streams)
    tensor = max(each.tensor_bytes for each in streams)
    decoded = max(each.decoded_bytes for each in streams)
    working = threads * (_slot(encoded) + _slot(tensor)) + UPSTREAM_ITEMS * _slot(tensor)
    arena = _up(max(_LEAST_ARENA, int(working * _SPARE)), _ARENA_STEP)
    rate = sum(each.rate for each in streams) / replicas
    queued = int(min(_MOST_QUEUED, rate * _QUEUED_S)) * encoded
    processes = plan.processes + plan.express_threads
    used = FRONT_BYTES + processes * BARE_BYTES + arena + int(threads * decoded * _WHILE_DECODING) + queued
    # The arena is at most half of the memory limit (arena.py).
    memory = _up(max(used, 2 * arena), _MEMORY_STEP)
    return Room(arena, arena + SHM_SPARE, memory)


def _slot(nbytes: int) -> int:
    return 1 << max(12, math.ceil(math.log2(max(1, nbytes))))


def _up(nbytes: int, step: int) -> int:
    return -(-nbytes // step) * step
