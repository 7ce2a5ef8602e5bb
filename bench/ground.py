"""What runs while overload is measured: Triton, the sidecar, and the same sidecar with each of the other policies.

All on the same two cores, which the load shares. Everything but the policy is at its default. The answers of the
upstream models are small and cost little (`bench.sinks`), so Infer is what disturbs least: the replies of
Preprocess carry tensors, whose way back would cost the load more than the work does for an icon.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.mix import KINDS, PICTURES, SOUNDS, media
from bench.policies import POLICIES
from bench.processes import CAREFUL_ENVIRONMENT, PROJECT, on_cores, server
from bench.rig import CORES
from bench.sidecars import CHECKPOINT
from bench.sinks import SINK, write_sink
from inference_client import Client
from testbed.install import Installation, install
from testbed.sidecar import SERVICE, sidecar_process
from testbed.triton import Triton

OURS = "ours"
SOUND_SINK = "sound_sink"
_ASK_S = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """A sidecar that is ready: its address, and its front process."""

    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Ground:
    """What runs. `loop` is that of the load."""

    loop: asyncio.Runner
    triton: Triton
    servers: Mapping[str, Served]
    cores: Sequence[int]


@contextmanager
def ground(policies: Sequence[str] = tuple(POLICIES)) -> Iterator[Ground]:
    """Starts everything, asks each server for each kind of media, and ends everything.

    Raises CannotInstall or TritonFailed where no Triton can run.
    """
    found = install()
    with ExitStack() as running:
        cores = running.enter_context(on_cores(CORES))
        triton = running.enter_context(upstream(found))
        settings = served(triton)
        servers = {OURS: running.enter_context(ours(settings))}
        servers |= {name: running.enter_context(theirs(name, settings)) for name in policies}
        for each in servers.values():
            check(each)
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        yield Ground(loop, triton, servers, cores)


@contextmanager
def upstream(found: Installation) -> Iterator[Triton]:
    """A Triton with a sink for pictures and one for sounds."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        write_sink(repository, found)
        _write_sound_sink(repository)
        with Triton.start(repository=repository) as triton:
            yield triton


def _write_sound_sink(repository: Path) -> None:
    """The same for one axis of samples, by the name that wav2vec2 gives them."""
    config = (repository / SINK / "config.pbtxt").read_text()
    config = config.replace('"pixel_values"', '"input_values"').replace("[ -1, -1, -1 ]", "[ -1 ]")
    (repository / SOUND_SINK / "1").mkdir(parents=True)
    (repository / SOUND_SINK / "config.pbtxt").write_text(config)
    for model in (repository / SINK / "1").iterdir():
        text = model.read_text().replace("pixel_values", "input_values")
        (repository / SOUND_SINK / "1" / model.name).write_text(text)


def served(triton: Triton) -> Mapping[str, str]:
    """The settings that all servers have in common."""
    return {
        "triton": triton.grpc_address,
        "log.level": "error",
        f"models.{PICTURES}.recipe": str(CHECKPOINT),
        f"models.{PICTURES}.upstream": SINK,
        f"models.{SOUNDS}.recipe": str(CHECKPOINT.parent / "wav2vec2-base-960h"),
        f"models.{SOUNDS}.upstream": SOUND_SINK,
    }


@contextmanager
def ours(settings: Mapping[str, str]) -> Iterator[Served]:
    """The sidecar as its user starts it."""
    with sidecar_process(settings) as running:
        yield Served(running.address, running.pid)


@contextmanager
def theirs(policy: str, settings: Mapping[str, str]) -> Iterator[Served]:
    """The sidecar with another policy, in its own folder, on its own socket."""
    command = [sys.executable, "-m", "bench.policy_server", policy]
    with started(command, settings) as running:
        yield running


@contextmanager
def started(
    command: Sequence[str], settings: Mapping[str, str], *, set_by: Sequence[str] = ()
) -> Iterator[Served]:
    """A server by this command, with settings as key=value behind it, each after `set_by`; ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/sidecar.sock"
        given = {"server.listen": f"[{address!r}]", "metrics.listen": "", **settings}
        flags = [part for key, value in given.items() for part in (*set_by, f"{key}={value}")]
        environment = {**CAREFUL_ENVIRONMENT, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'protos'}"}
        with server([*command, *flags], lambda: _is_ready(address), environment=environment) as process:
            yield Served(address, process.pid)


def _is_ready(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            state = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=_ASK_S
            )
        except grpc.RpcError:
            return False
        return bool(state.status == health_pb2.HealthCheckResponse.SERVING)


def check(running: Served) -> None:
    """Asks for every file by the client that reads answers. Raises what it raises."""
    with Client(running.address) as client:
        for kind in KINDS:
            for data in media()[kind.name]:
                client.infer(kind.model, data)
