"""Processes under measurement: the CPU time of their whole trees, the cores they run on, how they start and end.

CPU time is read from each process's own clock in nanoseconds (POSIX's process CPU-time clock, which counts
user and system time of all its threads, those that ended too), and summed over a server and everything that
it started. Nothing started here outlives its starter, and nothing is ended that was not started here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.guard import start_guard

PROJECT = Path(__file__).absolute().parents[1]

# What a careful user exports for a Python server that handles megabytes: glibc keeps such blocks instead of
# mapping and faulting them in anew for every request. And one thread inside BLAS, since requests are many.
CAREFUL_ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "16777216",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

START_S = 60.0
# Longest seen: a server that waits for its pool of processes, 5 s.
STOP_S = 15.0
_POLL_S = 0.05
# linux/posix-timers.h: the clock of a whole process (CPUCLOCK_SCHED) has this in its low bits, under the
# complement of the process's number.
_CPUCLOCK_SCHED = 2
# What is left to do when the starter is gone: the server's group, its folder.
_GUARD = 'kill -s KILL -- "-$1"; rm -rf "$2"'

Spent = Mapping[int, int]


def tree(*roots: int) -> list[int]:
    """The processes and all that they started and that still run, a parent before its children."""
    found = list(roots)
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def spent(*roots: int) -> Spent:
    """CPU nanoseconds so far, by process, of the trees under `roots`."""
    clocks: dict[int, int] = {}
    for pid in tree(*roots):
        with contextlib.suppress(OSError):
            clocks[pid] = time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    return clocks


def since(before: Spent, after: Spent, only: Iterable[int] | None = None) -> int:
    """CPU nanoseconds between two readings, of the processes `only`, or else of all in the later one."""
    return sum(after[pid] - before.get(pid, 0) for pid in (after if only is None else only))


def pin(cores: Iterable[int], *roots: int) -> None:
    """Puts every thread of the trees under `roots` on these cores; threads and processes to come inherit it."""
    wanted = set(cores)
    for pid in tree(*roots):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), wanted)


@contextmanager
def on_cores(count: int) -> Iterator[list[int]]:
    """Puts this process, and so all that it starts, on the first `count` cores it may use; gives them."""
    allowed = sorted(os.sched_getaffinity(0))
    chosen = allowed[:count]
    pin(chosen, os.getpid())
    try:
        yield chosen
    finally:
        pin(allowed, os.getpid())


@contextmanager
def server(
    command: Sequence[str | Path],
    is_ready: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = START_S,
) -> Iterator[subprocess.Popen[str]]:
    """Starts a server of somebody's, waits until it is ready, and ends it and all that it started.

    It runs in a folder of its own that is removed, in a process group of its own, with an environment of
    `environment` and little else. Raises RuntimeError with what it printed where it ends or is not ready
    in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        with printed.open("w") as log:
            process = subprocess.Popen(  # noqa: S603 - spelled out by the benchmark
                [str(part) for part in command],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": folder, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        guard = start_guard(_GUARD, str(process.pid), folder)
        try:
            give_up = time.monotonic() + start_timeout_s
            while not is_ready():
                if process.poll() is not None or time.monotonic() > give_up:
                    tail = "\n".join(printed.read_text(errors="replace").splitlines()[-25:])
                    raise RuntimeError(f"{Path(command[-1]).name} is not ready; it printed:\n{tail}")
                time.sleep(_POLL_S)
            yield process
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
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    # Pools of processes outlive a leader that does not wait for them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listens(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def says_yes(port: int, path: str) -> bool:
    """Whether GET of this path on this loopback port answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, all different."""
    with contextlib.ExitStack() as held:
        found = []
        for _ in range(count):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found.append(int(listener.getsockname()[1]))
        return found


class Child:
    """A module of this package in a process of its own, asked one question at a time; see `answers`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def of(
        cls,
        module: str,
        python: str | Path = sys.executable,
        environment: Mapping[str, str] = CAREFUL_ENVIRONMENT,
    ) -> Iterator[Child]:
        """Starts `python -m module` with this environment on top of ours, and ends it by closing its stdin."""
        process = subprocess.Popen(  # noqa: S603 - our own module
            [str(python), "-m", module],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield cls(process)
        finally:
            process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **question: Any) -> Any:  # noqa: ANN401 - JSON values
        """Sends a question and waits for its answer. Raises RuntimeError where the child ended instead."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the child has no pipes")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return json.loads(line)


def answers(answer: Callable[..., object]) -> None:
    """A child's main: answers each question, a line of JSON, by calling `answer` with its keys."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(**json.loads(line))) + "\n")
        sys.stdout.flush()
