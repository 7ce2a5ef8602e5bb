"""The sidecar as a process: whatever becomes of its starter, nothing may stay behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_client import Client
from testbed.install import PROJECT, why_not
from testbed.sidecar import StartError, sidecar_process

STARTER = """
import sys
from testbed.sidecar import sidecar_process
with sidecar_process({}) as sidecar:
    print(sidecar.pid, sidecar.printed.parent, flush=True)
    sys.stdin.read()
"""


def lives(pid: int) -> bool:
    """Whether the process is there and more than the name of one that has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def of_words(word: str) -> set[int]:
    """The processes with this word in their command line."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes():
                found.add(int(file.parent.name))
        except OSError:
            continue
    return found


def assert_comes_true(what: Callable[[], bool], within_s: float = 20.0) -> None:
    give_up = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < give_up, f"not true within {within_s} s"
        time.sleep(0.02)


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_leaving_the_block_ends_it_and_its_folder() -> None:
    with sidecar_process({}) as sidecar, Client(sidecar.address) as client:
        assert list(client.models()) == []
        folder = sidecar.printed.parent
        assert of_words(str(folder)) >= {sidecar.pid}
    assert sidecar.process.returncode == 0
    assert not folder.exists()
    assert of_words(str(folder)) == set()


def test_a_demo_without_a_triton_says_what_to_do_and_not_where_it_failed() -> None:
    with socket.socket() as nobody:  # bound and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-m", "demo"],
            cwd=PROJECT,
            env={**os.environ, "SIDECAR_TRITON": address},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert f"nothing answers at {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_that_cannot_start_is_told_in_its_own_words() -> None:
    with pytest.raises(StartError, match="unknown key `sever`"), sidecar_process({"sever": "1"}):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_starter_that_dies_takes_it_along(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        assert lives(int(pid))
        starter.send_signal(number)
    assert_comes_true(lambda: not lives(int(pid)) and not of_words(folder) and not Path(folder).exists())


@pytest.mark.triton
@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_demo_that_is_told_to_stop_takes_all_it_started_along(number: signal.Signals, status: int) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    environ = {name: value for name, value in os.environ.items() if name != "SIDECAR_TRITON"}
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "demo"],
        cwd=PROJECT,
        env={**environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        triton, folder = "", ""
        while not folder:
            words = demo.stdout.readline().split()
            assert words, demo.stderr.read()
            if "Triton serves on" in " ".join(words):
                triton = words[4].rstrip(";")
            if "the sidecar serves on" in " ".join(words):
                folder = str(Path(words[5].removeprefix("unix:").rstrip(";")).parent)
        assert answers(triton)
        assert of_words(folder)
        demo.send_signal(number)
        _, errors = demo.communicate()
    assert (demo.returncode, errors) == (status, "")
    assert_comes_true(lambda: not of_words(folder) and not Path(folder).exists() and not answers(triton))
