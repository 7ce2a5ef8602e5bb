"""Starts the testbed's Triton for real, and leaves nothing behind when it stops.

    with Triton.start(models=("checksum_fp32",)) as triton:
        use(triton.grpc_address)

The server runs in a process group of its own, on free loopback ports, with an environment made from
nothing, and keeps its shared memory under a prefix of its own. Each start is bounded in time, since
a server whose Python stub cannot run neither gets ready nor exits. Should this process die without
saying goodbye, a guard ends the server in its place.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.guard import start_guard
from testbed.install import PROJECT, Installation, installed

MODELS = PROJECT / "testbed" / "models"
# Triton's Python backend makes an empty directory there at each start, and leaves it.
SCRATCH = Path("/tmp")  # noqa: S108 - the place is compiled in
SCRATCH_PATTERN = "python_env_*"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - that is where Triton's Python backend puts its regions

# Fifteen Python models take 5 to 8 s on two idle cores; a loaded machine gets room.
START_TIMEOUT_S = 60.0
# A stop with Python stubs takes 3 to 4 s, most of it spent by Triton waiting for them.
STOP_TIMEOUT_S = 15.0
# From SIGKILL to the last process of the group gone; out of the air, milliseconds were seen.
GONE_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
POLL_S = 0.02
HOST = "127.0.0.1"
# Below Linux's range for outgoing connections (32768 up), so that none sits on a port between a
# stop and the restart on the same one.
PORTS = range(20000, 32000)
LOG_TAIL_LINES = 25
# What a model's configuration says of the backend that runs it.
BACKEND = re.compile(r'^backend: "(\w+)"', re.MULTILINE)

# With glibc's defaults every tensor of some MB is mapped and unmapped again: 25 % of a Python
# preprocessor's CPU, measured. One thread each for the models' BLAS, because they are many.
# onnxruntime 1.31 otherwise keeps a session file in /tmp for its telemetry.
ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "16777216",
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "LC_ALL": "C.UTF-8",
}

# What is left to do when this process is gone: the server's group, its shared memory, its directory.
GUARD = 'kill -s KILL -- "-$1"; rm -f "/dev/shm/$2"*; rm -rf "$3"'

# Triton 2.51's Python backend now and then loses a race of its own for a lock in shared memory, while it loads models
# that load well the next time; seen on a busy machine.
ABORTS = b"boost::interprocess::lock_exception"
STARTS = 3


class TritonFailed(Exception):
    """Triton did not start, or something was asked of it that it cannot do; the message says which."""


class Triton:
    """A Triton that answers on `grpc_address`; a context manager that stops it.

    Get one from `start`. Where it is a server that someone else runs, only `grpc_address` is known:
    the other addresses, `pid`, `log`, `kill` and `restart` raise TritonFailed, and `stop` leaves it
    alone. Not for use by several threads at once.
    """

    def __init__(self, grpc_address: str, server: _Server | None) -> None:
        self.grpc_address = grpc_address
        self._server = server

    @classmethod
    def start(
        cls,
        models: Sequence[str] | None = None,
        *,
        repository: Path = MODELS,
        installation: Installation | None = None,
        external: str | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        flags: Sequence[str] = (),
    ) -> Triton:
        """Starts a server with these models of the repository (None: all that can be) and returns when it is ready.

        `external`, where given and not empty, is the host:port of a server that already runs and is
        used instead. `installation` defaults to what `python -m testbed.install` made; `flags` are further ones of the
        server's own. Raises
        TritonFailed with the log's tail when the server exits or is not ready in time, and
        CannotInstall when nothing is installed.
        """
        if external:
            return cls(_reachable(external), server=None)
        found = installation or installed()
        if models is None:
            models = servable(found, repository)
        server = _Server(found, repository, models, flags)
        try:
            server.launch(start_timeout_s)
        except BaseException:
            server.remove(patience_s=0.0)
            raise
        return cls(server.grpc_address, server)

    @property
    def http_address(self) -> str:
        """host:port of the HTTP protocol and of `/v2/health/ready`."""
        return self._own().http_address

    @property
    def metrics_address(self) -> str:
        """host:port of `/metrics`."""
        return self._own().metrics_address

    @property
    def pid(self) -> int:
        """The server's process. TritonFailed while it is down."""
        if (pid := self._own().pid) is None:
            raise TritonFailed("Triton is down: it was killed or stopped")
        return pid

    @property
    def log(self) -> Path:
        """What the server and its models print; gone after `stop`."""
        return self._own().log

    def kill(self) -> None:
        """Ends the server and its models at once, as a crash would (SIGKILL). `restart` revives it."""
        self._own().end(patience_s=0.0)

    def restart(self, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        """Starts the server again on the same ports, stopping it first if it runs.

        Raises TritonFailed as `start` does; the server is then down, and may be restarted once more.
        """
        server = self._own()
        server.end(STOP_TIMEOUT_S)
        try:
            server.launch(start_timeout_s)
        except BaseException:
            server.end(patience_s=0.0)
            raise

    def stop(self) -> None:
        """Ends the server, gently first, and removes its shared memory and its log. Safe to repeat."""
        if self._server is not None:
            self._server.remove(STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Triton {self.grpc_address} {self._server or 'elsewhere'}>"

    def _own(self) -> _Server:
        if self._server is None:
            raise TritonFailed(
                f"the Triton at {self.grpc_address} runs elsewhere: only its gRPC address is known, "
                "and it is not ours to kill or restart"
            )
        return self._server


def servable(found: Installation, repository: Path = MODELS) -> list[str]:
    """The repository's models whose backends are installed: a native one is not, where nothing compiles it."""
    there = {library.parent.name for library in found.backends.glob("*/libtriton_*.so")}
    return sorted(
        config.parent.name
        for config in repository.glob("*/config.pbtxt")
        if there.issuperset(BACKEND.findall(config.read_text()))
    )


class _Server:
    """The server process and what belongs to it: its group, its guard, its shared memory, its log."""

    def __init__(
        self, found: Installation, repository: Path, models: Sequence[str], flags: Sequence[str] = ()
    ) -> None:
        grpc, http_, metrics = _free_ports(3)
        self.grpc_address, self.http_address = f"{HOST}:{grpc}", f"{HOST}:{http_}"
        self.metrics_address = f"{HOST}:{metrics}"
        self._directory = Path(tempfile.mkdtemp(prefix="testbed-triton-"))
        self.log = self._directory / "triton.log"
        # The directory's name is unique on this machine, and so becomes the regions' prefix.
        self._shared_memory = self._directory.name
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._scratch: set[Path] = set()
        self._environment = {
            **ENVIRONMENT,
            "PATH": f"{found.python_bin}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(map(str, found.library_dirs)),
        }
        self._command = [
            str(found.server),
            f"--model-repository={repository}",
            f"--backend-directory={found.backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            f"--grpc-address={HOST}",
            f"--grpc-port={grpc}",
            f"--http-address={HOST}",
            f"--http-port={http_}",
            f"--metrics-address={HOST}",
            f"--metrics-port={metrics}",
            # No GPU is looked for: the models sleep or run on the CPU.
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            "--exit-timeout-secs=5",
            *flags,
        ]

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def launch(self, timeout_s: float) -> None:
        """Starts the server, and again where it aborts of itself."""
        for left in reversed(range(STARTS)):
            logged = self.log.stat().st_size if self.log.exists() else 0
            try:
                self._launch(timeout_s)
            except TritonFailed:
                aborted = self._process is not None and self._process.poll() == -signal.SIGABRT
                if not left or not aborted or ABORTS not in self.log.read_bytes()[logged:]:
                    raise
                self.end(patience_s=0.0)
            else:
                return

    def _launch(self, timeout_s: float) -> None:
        there_before = set(SCRATCH.glob(SCRATCH_PATTERN))
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(  # noqa: S603 - the server that was installed
                self._command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = start_guard(GUARD, str(process.pid), self._shared_memory, str(self._directory))
        try:
            self._wait_until_ready(process, timeout_s)
        finally:
            self._scratch |= set(SCRATCH.glob(SCRATCH_PATTERN)) - there_before

    def end(self, patience_s: float) -> None:
        """Ends the process group: SIGINT and `patience_s` to obey it, then SIGKILL. Safe to repeat."""
        try:
            if self._process is not None:
                _end_group(self._process, patience_s)
                self._process = None
                if self._guard is not None:
                    self._guard.kill()
        finally:
            # Where the above was interrupted, the guard is not killed but finds its stdin closed, and
            # finishes the work.
            if self._guard is not None:
                self._guard.communicate()
            self._process = self._guard = None
            for region in SHARED_MEMORY.glob(f"{self._shared_memory}*"):
                region.unlink(missing_ok=True)
            for directory in self._scratch:
                # Only what is ours and empty goes: another Triton may have started beside this one.
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def remove(self, patience_s: float) -> None:
        """Ends the server, as `end` does, and removes its directory."""
        try:
            self.end(patience_s)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __str__(self) -> str:
        return f"pid {self.pid}" if self.pid else "down"

    def _wait_until_ready(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        give_up = time.monotonic() + timeout_s
        while not self._is_ready():
            if (status := process.poll()) is not None:
                raise TritonFailed(f"Triton exited at start with status {status}; {self._log_tail()}")
            if time.monotonic() > give_up:
                raise TritonFailed(f"Triton was not ready within {timeout_s:g} s; {self._log_tail()}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.http_address, timeout=1.0)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "its log ends:\n" + "\n".join(lines) if lines else "it logged nothing"


def _end_group(leader: subprocess.Popen[bytes], patience_s: float) -> None:
    if patience_s:
        leader.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(patience_s)
    give_up = time.monotonic() + GONE_TIMEOUT_S
    # The models' processes outlive a leader that crashed; once killed, they go in their own time.
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < give_up:
            os.killpg(leader.pid, signal.SIGKILL)
            leader.poll()
            time.sleep(POLL_S)
    leader.wait()


def _free_ports(count: int) -> list[int]:
    """Loopback ports that are free now. All are held until the last is found, so they differ."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind((HOST, port))
                found.append(port)
            if len(found) == count:
                return found
    raise TritonFailed(f"fewer than {count} free ports in {PORTS.start}..{PORTS.stop - 1}")


def _reachable(address: str) -> str:
    """The address, once something accepts connections there."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise TritonFailed(f"the address of a Triton elsewhere must be host:port, found {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise TritonFailed(f"nothing answers at {address}, where a Triton should run: {error}") from error
    return address
