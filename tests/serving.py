"""`sidecar serve` in a process of its own, for tests of what only a process has: signals, settings files, a container.

Whoever starts one ends it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from inference_client import Client, SidecarError

PATIENCE_S = 60.0


class Serving:
    """A server that listens at `address`, a socket in the folder that was given, and logs to a file there."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._log = folder / "log"
        self.address = f"unix:{folder}/sidecar.sock"
        where = {"SIDECAR_SERVER__LISTEN": f"['{self.address}']", "SIDECAR_METRICS__LISTEN": ""}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "serve", *flags], stderr=log, env=os.environ | where
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def plan(self) -> Mapping[str, int]:
        """The plan's numbers; none while the server does not answer."""
        try:
            with Client(self.address) as client:
                return {number.name: number.number for number in client.thread_plan().numbers}
        except SidecarError:
            return {}

    def becomes(self, name: str, number: int) -> None:
        """Returns once the plan has this number."""
        self.awaits(lambda: self.plan().get(name) == number)

    def says(self, words: str) -> None:
        """Returns once the log has these words."""
        self.awaits(lambda: words in self.log)

    def awaits(self, holds: Callable[[], bool]) -> None:
        """Returns once something holds; fails with the log where it does not come to that."""
        ends = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < ends, self.log
            time.sleep(0.05)

    def send(self, signal: int) -> None:
        self._process.send_signal(signal)

    def end(self) -> int:
        """Drains; gives the exit code."""
        self._process.terminate()
        return self._process.wait(PATIENCE_S)


@contextmanager
def calling(address: str, media: bytes | Path, callers: int = 4) -> Iterator[None]:
    """Callers of the model `clip`, in closed loops as long as the block lasts; every call must be answered."""
    over, failed = threading.Event(), list[BaseException]()

    def call() -> None:
        try:
            with Client(address) as client:
                while not over.is_set():
                    assert client.preprocess("clip", media, fresh=True).tensor("pixel_values").size
        except BaseException as error:  # noqa: BLE001 - told below, on the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in threads:
            each.join()
    assert not failed


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Serving]:
    """Starts one, waits until it answers, and ends it, which must go well."""
    started = Serving(folder, *flags)
    try:
        started.awaits(lambda: bool(started.plan()))
        yield started
    finally:
        code = started.end()
    assert code == 0, started.log
