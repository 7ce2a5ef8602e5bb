"""What runs while the sidecar is measured: Triton, sidecars of several kinds, the bare loop, and their load.

All of it is pinned to the same two cores, which the load shares; it is started once and ended with the rig.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import uvloop

from bench.channel import grpc_calls
from bench.load import Call, Latencies, closed_loop, open_loop
from bench.photos import SIZES, photos
from bench.processes import Child, on_cores
from bench.sidecars import INFER, PREPROCESS, Workers, clip, sidecar
from bench.sinks import SINK, kind, write_sink
from inference_client import Client
from inference_client.calls import Calls
from testbed.install import install
from testbed.sidecar import SidecarProcess
from testbed.triton import Triton

CORES = 2
SIDES = (224, 448)
SERVERS = {"processes": Workers(2, 2), "threads": Workers(0, 2), "one": Workers(1, 1)}
"""The sidecars of a rig by name."""

# Enough to keep two workers and the queue before them busy.
IN_FLIGHT = 8

Reading = TypeVar("Reading")


@dataclass(frozen=True, slots=True)
class Load:
    """A server's address, the method to call, its serialised requests, one a picture."""

    address: str
    method: str
    requests: Sequence[bytes]

    @property
    def lap(self) -> int:
        """Calls that ask for every picture once."""
        return len(self.requests)

    async def closed(self, count: int, read: Callable[[], Reading]) -> tuple[float, Reading, Reading]:
        """Seconds that `count` calls took, IN_FLIGHT at a time, and what `read` gave before and after them."""
        async with self._warm() as call:
            before = read()
            seconds = await closed_loop(call, IN_FLIGHT, count)
            return seconds, before, read()

    async def open(self, schedule: Sequence[float]) -> Latencies:
        """Calls by the schedule."""
        async with self._warm() as call:
            return await open_loop(call, schedule)

    @asynccontextmanager
    async def _warm(self) -> AsyncIterator[Call]:
        """A connection over which some calls went already."""
        async with grpc_calls(self.address, self.method, self.requests) as call:
            await closed_loop(call, IN_FLIGHT, IN_FLIGHT)
            yield call


@dataclass(frozen=True, slots=True)
class Rig:
    """What runs. `sink` tells which kind of model answers in Triton (see `bench.sinks`)."""

    loop: asyncio.Runner
    bare: Child
    upstream: Child
    triton: Triton
    sink: str
    servers: Mapping[str, SidecarProcess]
    checkpoints: Mapping[int, Path]
    pictures: Mapping[str, Sequence[Path]]
    cores: Sequence[int]
    rounds: int

    def load(self, server: str, size: str, side: int, verb: str = "Infer") -> Load:
        """How to ask a server for pictures of a size at a side."""
        method = {"Infer": INFER, "Preprocess": PREPROCESS}[verb]
        return Load(self.servers[server].address, method, requests(verb, model(side), self.pictures[size]))

    def closed(self, load: Load, count: int, read: Callable[[], Reading]) -> tuple[float, Reading, Reading]:
        """See Load."""
        return self.loop.run(load.closed(count, read))

    def rate(self, load: Load, seconds: float) -> float:
        """Calls a second of a closed loop of about that many seconds, by a first guess from two laps."""
        guess, _, _ = self.closed(load, 2 * load.lap, os.getpid)
        count = laps(2 * load.lap / guess * seconds, load.lap)
        taken, _, _ = self.closed(load, count, os.getpid)
        return count / taken


@contextmanager
def rig(rounds: int) -> Iterator[Rig]:
    """Starts everything, asks each server once for each picture, and ends everything.

    Raises CannotInstall or TritonFailed where no Triton can run.
    """
    found = install()
    with ExitStack() as running:
        cores = running.enter_context(on_cores(CORES))
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = {side: clip(folder, side) for side in SIDES}
        pictures = {size: written(folder, size) for size in SIZES}
        write_sink(folder / "models", found)
        triton = running.enter_context(Triton.start(repository=folder / "models"))
        served = {model(side): {"recipe": str(checkpoints[side]), "upstream": SINK} for side in SIDES}
        servers = {
            name: running.enter_context(sidecar(workers, served, triton.grpc_address))
            for name, workers in SERVERS.items()
        }
        for server, side, size in product(servers.values(), SIDES, SIZES):
            check(server, model(side), pictures[size])
        yield Rig(
            loop=running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop)),
            bare=running.enter_context(Child.of("bench.bare")),
            upstream=running.enter_context(Child.of("bench.upstream")),
            triton=triton,
            sink=kind(found),
            servers=servers,
            checkpoints=checkpoints,
            pictures=pictures,
            cores=cores,
            rounds=rounds,
        )


def model(side: int) -> str:
    """The sidecar's model for a side."""
    return f"clip_{side}"


def written(folder: Path, size: str) -> list[Path]:
    """The pictures of a size as files."""
    paths = []
    for number, data in enumerate(photos(size)):
        paths.append(folder / f"{size}-{number}.jpg")
        paths[-1].write_bytes(data)
    return paths


def requests(verb: str, name: str, pictures: Sequence[Path]) -> list[bytes]:
    """Serialised requests for a model, one a picture; one that fails is the call's failure."""
    made = Calls(upload_threshold=2**30)
    asked = [
        made.infer(name, path, None) if verb == "Infer" else made.preprocess(name, path) for path in pictures
    ]
    return [call.request.SerializeToString() for call in asked]


def check(server: SidecarProcess, name: str, pictures: Sequence[Path]) -> None:
    """Asks for every picture by the client that reads answers. Raises what it raises."""
    with Client(server.address) as client:
        for path in pictures:
            client.infer(name, path)


def laps(count: float, lap: int) -> int:
    """About `count`, in whole laps, at least one."""
    return max(1, round(count / lap)) * lap
