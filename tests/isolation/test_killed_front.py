"""The front process is killed outright: its processes end, its memory is found and freed, and nobody else's."""

from __future__ import annotations

import secrets
import time

import pytest

from inference_client import Client
from sidecar.arena.segment import SHM
from testbed.sidecar import SidecarProcess, sidecar_process
from testbed.triton import Triton
from tests.isolation.inside import CLIP, MIB, alive, children, picture, until
from tests.running import CHECKPOINTS

# A minute or more where the machine is busy: of the long suites.
pytestmark = [pytest.mark.triton, pytest.mark.full]

# From the front's end to the last worker's; the kernel does it within milliseconds.
GONE_S = 2.0
PICTURES = [picture(number) for number in range(4)]


def settings(triton: Triton, arena: str) -> dict[str, str]:
    return {
        "triton": triton.grpc_address,
        "models.clip.recipe": str(CHECKPOINTS / CLIP),
        "models.clip.upstream": "checksum_fp32",
        "models.embeddings": "{}",
        "arena.name": arena,
        "arena.bytes": str(32 * MIB),
        "workers": "2",
        "threads.image": "2",
    }


def answers(sidecar: SidecarProcess) -> list[bytes]:
    with Client(sidecar.address) as client:
        return [
            *(each.tensor("crc32").tobytes() for each in client.infer("clip", PICTURES)),
            client.infer("embeddings", inputs={"seed": 3}).tensor("embedding").tobytes(),
        ]


def objects(arena: str) -> set[str]:
    return {path.name for path in SHM.glob(f"{arena}-*")}


def processes(sidecar: SidecarProcess) -> list[int]:
    """The nursery and its workers."""
    (nursery,) = (
        pid for pid, command in children(sidecar.pid).items() if "sidecar.workers.nursery" in command
    )
    workers = list(children(nursery))
    assert len(workers) == 3  # one of them for small items
    return [nursery, *workers]


def by_place(sidecar: SidecarProcess) -> bool:
    """Whether it has told that tensors go by shared memory, and never that they do not."""
    printed = sidecar.printed.read_text()
    return "go to the model server by shared memory" in printed and "as bytes" not in printed


def test_a_killed_front_takes_its_processes_along_and_its_memory_is_freed_by_the_next_one_alone(
    triton: Triton,
) -> None:
    arena = f"isolation-{secrets.token_hex(4)}"
    with sidecar_process(settings(triton, arena)) as neighbour:
        (theirs,) = objects(arena)
        expected = answers(neighbour)
        with sidecar_process(settings(triton, arena)) as killed:
            assert answers(killed) == expected
            (left,) = objects(arena) - {theirs}
            pids = processes(killed)
            killed.process.kill()
            killed.process.wait()
            begun = time.monotonic()
            until(lambda: not any(map(alive, pids)), lambda: f"of {pids} some live on")
            assert time.monotonic() - begun < GONE_S
            assert objects(arena) == {theirs, left}
        with sidecar_process(settings(triton, arena)) as successor:
            (new,) = objects(arena) - {theirs}
            assert new != left
            assert f"{left} was left by a process that died" in successor.printed.read_text()
            assert answers(successor) == expected
            assert by_place(successor)
            assert answers(neighbour) == expected
            assert by_place(neighbour)
        assert objects(arena) == {theirs}
    assert objects(arena) == set()


@pytest.mark.full
def test_a_front_that_is_killed_under_load_and_started_again_serves_by_shared_memory_at_once(
    triton: Triton,
) -> None:
    """Thrice: what a dead one had registered with the model server must not stand in the next one's way."""
    arena = f"isolation-{secrets.token_hex(4)}"
    found = []
    for _ in range(3):
        with sidecar_process(settings(triton, arena)) as sidecar:
            found.append(answers(sidecar))
            assert by_place(sidecar)
            with Client(sidecar.address) as client:
                calls = client.infer("clip", PICTURES * 4)
                assert len(calls) == 16
            sidecar.process.kill()
            sidecar.process.wait()
    assert found[0] == found[1] == found[2]
    with sidecar_process(settings(triton, arena)):
        assert len(objects(arena)) == 1
    assert objects(arena) == set()
