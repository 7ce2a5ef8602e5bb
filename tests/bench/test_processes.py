"""CPU time and cores of trees of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench.processes import Child, free_ports, listens, on_cores, server, since, spent, tree

# Starts a child of its own, says its number, and waits for the end of its stdin.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
child.communicate()
"""


@pytest.fixture
def parent() -> Iterator[tuple[int, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate()


def test_a_tree_is_the_process_and_what_it_started(parent: tuple[int, int]) -> None:
    assert tree(parent[0]) == list(parent)


def test_work_shows_in_the_clock_of_who_did_it(parent: tuple[int, int]) -> None:
    own = os.getpid()
    before, begun = spent(own), time.process_time_ns()
    while time.process_time_ns() - begun < 20_000_000:
        pass
    after = spent(own)
    assert since(before, after, [own]) >= 20_000_000
    assert since(before, after, [parent[0]]) < 20_000_000


def test_a_process_that_is_gone_is_left_out() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert spent(gone.pid) == {}


def test_cores_are_inherited_and_given_back() -> None:
    allowed = os.sched_getaffinity(0)
    with on_cores(1) as cores:
        asked = "import os; print(sorted(os.sched_getaffinity(0)))"
        told = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
        assert told.stdout.strip() == str(cores)
    assert os.sched_getaffinity(0) == allowed


class TestServer:
    def test_it_is_there_when_ready_and_gone_afterwards(self) -> None:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        with server(command, lambda: listens(port)) as process:
            assert listens(port)
        assert process.poll() is not None
        assert not listens(port)

    def test_one_that_ends_by_itself_is_told_with_what_it_printed(self) -> None:
        with (
            pytest.raises(RuntimeError, match="no such peer"),
            server([sys.executable, "-c", "print('no such peer')"], lambda: False),
        ):
            pass


def test_a_child_that_ends_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with Child.of("bench.no_such_module") as child, pytest.raises(RuntimeError, match="ended with status 1"):
        child.ask()
    assert "no_such_module" in capfd.readouterr().err
