"""Settings read anew by a running server: on SIGHUP, and when the file, or what its name leads to, is another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_client import Client, SidecarError

PATIENCE_S = 60.0


class Server:
    """`sidecar serve` in a process of its own, with a settings file."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.log = folder / "log"
        self.address = f"unix:{folder}/sidecar.sock"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "serve", "--config", str(file)],
                stderr=log,
                env=os.environ
                | {"SIDECAR_SERVER__LISTEN": f"['{self.address}']", "SIDECAR_METRICS__LISTEN": ""},
            )

    def number(self, name: str) -> int:
        with Client(self.address) as client:
            return client.thread_plan()[name]

    def becomes(self, name: str, number: int) -> None:
        """Returns once the plan has this number."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self.number(name) == number:
                    return
            except SidecarError:
                pass
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)

    def says(self, words: str) -> None:
        """Returns once the log has these words."""
        ends = time.monotonic() + PATIENCE_S
        while words not in self.log.read_text():
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)

    def hang_up(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def end(self) -> int:
        self._process.terminate()
        return self._process.wait(PATIENCE_S)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A settings file as the kubelet mounts it: a link to a file in a folder that is a link too."""
    (tmp_path / "..one").mkdir()
    (tmp_path / "..one/sidecar.yaml").write_text("threads: {image: 1}\n")
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "sidecar.yaml").symlink_to("..data/sidecar.yaml")
    return tmp_path / "sidecar.yaml"


@pytest.fixture
def server(tmp_path: Path, mounted: Path) -> Iterator[Server]:
    started = Server(tmp_path, mounted)
    started.becomes("threads.image", 1)
    yield started
    assert started.end() == 0


def exchange(mounted: Path, text: str, name: str = "..two") -> None:
    """As the kubelet does it: a new folder, and the link to it put in place of the old one at once."""
    folder = mounted.parent / name
    folder.mkdir()
    (folder / "sidecar.yaml").write_text(text)
    (mounted.parent / "..data_tmp").symlink_to(name)
    (mounted.parent / "..data_tmp").replace(mounted.parent / "..data")


def test_a_mounted_file_that_is_exchanged_moves_the_plan(server: Server, mounted: Path) -> None:
    exchange(mounted, "threads: {image: 3, audio: 2}\n")
    server.becomes("threads.image", 3)
    assert server.number("threads.audio") == 2


def test_a_signal_reads_the_settings_anew(server: Server, mounted: Path) -> None:
    before = mounted.stat()
    mounted.write_text("threads: {image: 2}\n")
    os.utime(
        mounted, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # the same size and time: nothing is seen by itself
    server.hang_up()
    server.becomes("threads.image", 2)


def test_settings_that_are_wrong_are_told_and_change_nothing(server: Server, mounted: Path) -> None:
    exchange(mounted, "threads: {image: many}\n")
    server.says("the old ones stay")
    exchange(mounted, "threads: {image: 4096}\n", "..three")
    server.says("only wait for each other")
    assert server.number("threads.image") == 1
    exchange(mounted, "threads: {image: 2}\n", "..four")
    server.becomes("threads.image", 2)


def test_what_takes_a_restart_is_named(server: Server, mounted: Path) -> None:
    exchange(mounted, "threads: {image: 2}\ngate: {patience_s: 9}\nlimits: {items: 3}\n")
    server.becomes("threads.image", 2)
    server.says("takes a restart: limits.items, gate.patience_s")
