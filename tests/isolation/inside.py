"""A whole sidecar with a window into it: what its parts hold, at any moment, while real callers use it.

The parts are the real ones; they are only noted as the composition root hands them to the path. The event
loop is the one that `sidecar serve` uses. Nothing here changes what the sidecar does.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from PIL import Image

from sidecar import app
from sidecar.arena.arena import Arena
from sidecar.catalogue import Catalogue
from sidecar.pipeline import Pipeline
from sidecar.prepare import Preparer
from sidecar.stages.admit.gate import Gate
from sidecar.stages.deliver.shared_memory import Handover
from sidecar.stages.deliver.triton import TritonUpstream
from sidecar.workers.pool import CrewStatistics, Workers
from sidecar.workers.supervisor import ProcessWorkers
from tests.running import Running, running

CLIP = "clip-vit-base-patch32"
MIB = 1 << 20
# Far more than anything here takes on an idle machine; what needs as long is stuck.
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Inside:
    """A running sidecar and its parts."""

    sidecar: Running
    arena: Arena
    gate: Gate
    workers: Workers
    catalogue: Catalogue
    upstream: TritonUpstream | None

    @property
    def address(self) -> str:
        return self.sidecar.address

    @property
    def crew(self) -> CrewStatistics:
        return self.workers.crew()

    @property
    def handover(self) -> Handover:
        """How tensors went to the model server; of a sidecar without one, that nothing did."""
        return self.upstream.handover() if self.upstream else Handover()

    def held(self) -> dict[str, int]:
        """Whatever anybody holds or waits for, by its name; empty when it is nothing."""
        arena, handover = self.arena.statistics(), self.handover
        found = {
            "arena.leased": arena.leased,
            "arena.leased_bytes": arena.leased_bytes,
            "arena.pinned": arena.pinned,
            "handover.detached": handover.detached,
            "handover.limbo": handover.limbo,
            "workers.tasks": self.workers._tasks if isinstance(self.workers, ProcessWorkers) else 0,
        }
        for modality, lane in self.gate.statistics().items():
            found |= {
                f"gate.{modality.value}.queued": lane.queued,
                f"gate.{modality.value}.running": lane.running,
            }
        return {name: count for name, count in found.items() if count}

    @property
    def suspects(self) -> int:
        """Jobs that have lost a worker once and are not answered yet; one more death, and they are refused."""
        assert isinstance(self.workers, ProcessWorkers)
        running = [task for worker in self.workers._workers.values() for task in worker.running.values()]
        return sum(task.strikes > 0 for task in (*running, *self.workers._suspects))

    def nothing_left(self) -> None:
        """Fails unless everything was given back, exactly once, without the arena's having to take it."""
        until(lambda: not self.held(), lambda: f"still held: {self.held()}")
        arena = self.arena.statistics()
        assert arena.taken_total == arena.released_total
        assert (arena.expired_total, arena.reclaimed_total, arena.misreleased_total) == (0, 0, 0)

    def complete(self, count: int) -> bool:
        """Whether so many worker processes are there, and those for small items beside them."""
        assert isinstance(self.workers, ProcessWorkers)
        return len(self.crew.pids) == count + self.workers._plan.express_threads

    def pids(self, count: int) -> tuple[int, ...]:
        """The worker processes' pids, those for small items among them, once there are so many beside these."""
        until(lambda: self.complete(count), lambda: f"workers are {self.crew}")
        return self.crew.pids

    def tasks(self) -> int:
        """asyncio tasks on the sidecar's loop, without the one that counts."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.sidecar.do(count())


@contextmanager
def inside(
    models: Mapping[str, str] | None = None, triton: str | None = None, *overrides: str
) -> Iterator[Inside]:
    """Starts a sidecar as `running` does."""
    made: list[dict[str, Any]] = []

    class Noted(Pipeline):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            made.append(parts)

    class NotedToo(Preparer):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            made.append(parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "Pipeline", Noted)
        patch.setattr(app, "Preparer", NotedToo)
        patch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)
        starting = running(models, triton, *overrides)
        sidecar = starting.__enter__()
    try:
        preparers, pipelines = made
        parts = preparers | pipelines
        names = ("arena", "gate", "workers", "catalogue", "upstream")
        yield Inside(sidecar, **{name: parts[name] for name in names})
    finally:
        starting.__exit__(None, None, None)


def until(holds: Callable[[], bool], words: Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    """Waits until that holds. Fails with `words` when it does not in time."""
    give_up = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < give_up, words()
        time.sleep(0.01)


async def eventually(holds: Callable[[], bool]) -> None:
    """As `until`, and lets the loop's other tasks go on meanwhile."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def picture(number: int, width: int = 64, height: int = 48, form: str = "PNG") -> bytes:
    """Noise, another for every number; the first pixel is black."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    pixels[0, 0] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def children(pid: int) -> dict[int, str]:
    """The command lines of a process's children, by their pids."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and parent(int(folder.name)) == pid:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended while it was looked at
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def trim() -> None:
    """Gives back what the allocator of this process holds free: glibc keeps it, as it was told to, and how much
    that is hangs on the moment. What is left is in use.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def own_memory(pid: int | str) -> int:
    """Bytes of a process that are its own (RssAnon). The arena's pages are not: they were there from the
    start, are counted to each process that has touched them, and come to no more than its size.
    """
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:")
    )
    return int(line.split()[1]) * 1024
