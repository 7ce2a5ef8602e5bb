"""A CPU quota on a running sidecar: by a real control group where the machine allows it, else by stopping its workers
for a part of every tenth of a second (a duty cycle of SIGSTOP), which takes the same time away.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.processes import tree

_PERIOD_US = 100_000
_V1 = Path("/sys/fs/cgroup/cpu")
_GONE_S = 5.0


class Quota(Protocol):
    """What limits a process tree; `kind` says how."""

    kind: str

    @contextmanager
    def starting(self) -> Iterator[None]:
        """What is started inside is under the quota, with all that it starts."""
        ...

    def allow(self, cores: float | None, pid: int) -> None:
        """So many cores from now on for the tree under `pid`, None for all."""
        ...


@dataclass(slots=True)
class _Group:
    """A control group of version 1."""

    folder: Path
    kind: str = "cgroup v1"

    @contextmanager
    def starting(self) -> Iterator[None]:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self.folder.parent / "cgroup.procs").write_text(str(os.getpid()))

    def allow(self, cores: float | None, pid: int) -> None:  # noqa: ARG002 - the group knows its processes
        quota = -1 if cores is None else int(cores * _PERIOD_US)
        (self.folder / "cpu.cfs_quota_us").write_text(str(quota))


@dataclass(slots=True)
class _Stops:
    """Workers that are stopped for a part of every period."""

    kind: str = "duty-cycled SIGSTOP"
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        yield

    def allow(self, cores: float | None, pid: int) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        if cores is not None:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._cycle, args=(cores / 2, pid), daemon=True)
            self._thread.start()

    def _cycle(self, part: float, pid: int) -> None:
        period = _PERIOD_US / 1e6
        workers = tree(pid)[1:]
        while not self._stop.is_set():
            _signal(workers, signal.SIGSTOP)
            time.sleep(period * (1 - part))
            _signal(workers, signal.SIGCONT)
            self._stop.wait(period * part)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _own() -> str:
    """The group of version 1 that this process is in, as the kernel tells it; empty where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(","):
                return path
    return ""


@contextmanager
def quota() -> Iterator[Quota]:
    """A quota that allows everything; undone on leaving, when what was started under it has ended."""
    folder = _V1 / _own().lstrip("/") / f"sidecar-bench-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    except OSError:
        yield _Stops()
        return
    try:
        yield _Group(folder)
    finally:
        until = time.monotonic() + _GONE_S
        while folder.exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
            if time.monotonic() > until:
                break
            time.sleep(0.05)
