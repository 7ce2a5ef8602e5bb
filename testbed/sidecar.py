"""The sidecar as a process of its own, started as its user starts it, for demo, tests and benchmarks.

On a unix socket in a folder of its own, so that no port can be taken. It is ended by SIGTERM, which
drains it; whoever starts one ends it by leaving the `with` block, and nothing stays behind. Should the
starter die without leaving it, a guard ends the sidecar in its place.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testbed.guard import start_guard

SERVICE = "multimodal.v1.Preprocessor"
START_S = 120.0
# A drain is bounded by the server's own setting, 25 s; past this it hangs.
STOP_S = 40.0
# What is left to do when the starter is gone: the sidecar's group, its folder.
GUARD = 'kill -s KILL -- "-$1"; rm -rf "$2"'


class StartError(RuntimeError):
    """The sidecar ended, or did not become ready in time; the message holds what it printed."""


@dataclass(frozen=True)
class SidecarProcess:
    """A sidecar that is ready. `address` is for clients, `process` for signals and exit status."""

    address: str
    process: subprocess.Popen[str]
    printed: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def sidecar_process(
    settings: Mapping[str, str], *arguments: str, start_timeout_s: float = START_S
) -> Iterator[SidecarProcess]:
    """Starts a sidecar, waits until it is ready, and ends it. Raises StartError.

    `settings` are keys and values as for `--set`; `arguments` are further flags, such as "--config".
    """
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/sidecar.sock"
        given = {"server.listen": f"[{address!r}]", "metrics.listen": "", **settings}
        flags = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
        printed = Path(folder) / "printed"
        with printed.open("w") as log:
            process = subprocess.Popen(  # noqa: S603 - our own server
                [sys.executable, "-m", "sidecar", "serve", *arguments, *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        guard = start_guard(GUARD, str(process.pid), folder)
        running = SidecarProcess(address, process, printed)
        try:
            _wait_until_ready(running, time.monotonic() + start_timeout_s)
            yield running
        finally:
            try:
                _end(process)
                guard.kill()
            finally:
                # Where the above was interrupted, the guard finds its stdin closed and finishes the work.
                guard.communicate()
                process.wait()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(running: SidecarProcess, until: float) -> None:
    # By gRPC's own pauses a server that takes half a minute to start would be looked for a minute later.
    pauses = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    with grpc.insecure_channel(running.address, options=pauses) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while running.process.poll() is None and time.monotonic() < until:
            # Watched for a second at a time, so that a process that ends meanwhile is noticed.
            try:
                for state in health.Watch(
                    health_pb2.HealthCheckRequest(service=SERVICE), timeout=1, wait_for_ready=True
                ):
                    if state.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError:
                continue
    raise StartError(f"the sidecar is not ready; it printed:\n{running.printed.read_text()}")
