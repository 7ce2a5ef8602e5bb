"""Callers who leave, by the thousand and in every state of a call: nothing of them stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from inference_client import Client
from testbed.install import why_not
from testbed.triton import Triton
from tests.isolation.inside import CLIP, MIB, Inside, inside, own_memory, picture, trim, until

# A minute or more where the machine is busy: of the long suites.
pytestmark = [pytest.mark.triton, pytest.mark.full]

MODELS = {"clip": CLIP, "accelerator": CLIP}
SETTINGS = (
    "models.clip.upstream=checksum_fp32",
    "models.embeddings.max_items=0",
    "workers=2",
    "threads.image=4",
    "log.level=error",
)
IN_FLIGHT = 24
KINDS = (
    "preprocess",
    "preprocess 4",
    "infer",
    "infer slow",
    "infer embeddings",
    "preprocess upload",
)
# What a process may grow by in the second half: what glibc's heaps and Python's arenas move by from one quiet
# moment to the next, and what gRPC's own asyncio server leaves of every cancelled call, some 60 to 140 bytes
# (grpcio 1.85, seen with a server that only echoes; answered calls leave nothing). A picture, a message or a
# tensor that stays would be 9 KiB a call and more, hundreds of MiB; a task or a future a KiB, 50 MiB.
GROWTH_BYTES = 8 * MIB
GRPC_BYTES = 200


@dataclass(frozen=True)
class Quiet:
    """What a sidecar is when nobody calls it."""

    tasks: int
    descriptors: int
    front_bytes: int
    worker_bytes: tuple[int, ...]

    @classmethod
    def of(cls, it: Inside) -> Quiet:
        """Once connections have closed and the last slot is back."""
        it.nothing_left()
        trim()
        return cls(
            it.tasks(),
            len(list(Path("/proc/self/fd").iterdir())),
            own_memory("self"),
            tuple(own_memory(pid) for pid in sorted(it.pids(2))),
        )


@pytest.fixture
def it() -> Iterator[Inside]:
    """A sidecar before a Triton of its own, which so many calls may end: it must not be missing in other tests."""
    if os.environ.get("SIDECAR_TRITON") or why_not() is not None:
        pytest.skip("no Triton here that is the test's own")
    with Triton.start() as own, inside(MODELS, own.grpc_address, *SETTINGS) as started:
        yield started


def leave(it: Inside, count: int, seed: int) -> Counter[str]:
    """Has so many calls cancelled, and checks how the others ended."""
    command = [
        sys.executable,
        "-m",
        "tests.isolation.leavers",
        it.address,
        str(count),
        str(IN_FLIGHT),
        str(seed),
    ]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, timeout=900, check=True
    )
    ended = Counter[str](json.loads(done.stdout))
    assert {name.rpartition(": ")[2] for name in ended} <= {"cancelled", "answered", "RESOURCE_EXHAUSTED"}, (
        ended
    )
    assert sum(number for name, number in ended.items() if name.endswith("cancelled")) >= count
    assert all(ended[f"{kind}: cancelled"] for kind in KINDS)
    return ended


def answers(it: Inside) -> list[bytes]:
    with Client(it.address) as client:
        return [
            *(client.preprocess("clip", picture(number)).tensor().tobytes() for number in range(4)),
            *(client.infer("clip", picture(number)).tensor("crc32").tobytes() for number in range(4)),
            client.infer("embeddings", inputs={"seed": 7}).tensor("embedding").tobytes(),
        ]


@pytest.mark.parametrize(
    "calls", [3_000, pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(1800)])]
)
def test_calls_cancelled_in_any_state_leave_nothing_behind(it: Inside, calls: int) -> None:
    expected = answers(it)
    leave(it, calls // 10, 0)
    before = Quiet.of(it)
    leave(it, calls // 2 - calls // 10, 1)
    middle = Quiet.of(it)
    leave(it, calls // 2, 2)
    until(
        lambda: it.tasks() <= before.tasks,
        lambda: f"{it.tasks()} tasks, {before.tasks} before",
    )
    after = Quiet.of(it)
    assert after.descriptors <= before.descriptors
    assert after.front_bytes - middle.front_bytes < GROWTH_BYTES + GRPC_BYTES * calls // 2
    for then, now in zip(middle.worker_bytes, after.worker_bytes, strict=True):
        assert now - then < GROWTH_BYTES
    crew, handover = it.crew, it.handover
    assert (crew.deaths_total, crew.hangs_total) == (0, 0)
    assert sum(pool.abandoned_total for pool in it.workers.statistics().values()) > 0
    assert handover.path == "shared_memory"
    assert handover.detached_total > 0
    assert answers(it) == expected
