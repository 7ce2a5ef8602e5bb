"""What is read of other processes is what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.observe.clocks import cpu_ns, wants_a_core


@contextmanager
def running(code: str) -> Iterator[int]:
    """A process that says when it is there, and is ended after."""
    with subprocess.Popen(
        [sys.executable, "-c", f"print('there', flush=True); {code}"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_the_clock_of_a_busy_process_goes_on_and_it_wants_a_core() -> None:
    with running("[None for _ in iter(int, 1)]") as pid:
        before = cpu_ns(pid)
        while cpu_ns(pid) < before + 20_000_000:
            assert wants_a_core(pid)


def test_one_that_waits_uses_none_and_wants_none() -> None:
    with running("import signal; signal.pause()") as pid:
        while wants_a_core(pid):
            os.sched_yield()
        before = cpu_ns(pid)
        assert not wants_a_core(pid)
        assert cpu_ns(pid) == before > 0


def test_of_this_process_it_is_what_python_says() -> None:
    before = time.process_time_ns()
    assert before <= cpu_ns(os.getpid()) <= time.process_time_ns()


def test_of_one_that_is_gone_it_is_nothing() -> None:
    with running("") as pid:
        pass
    assert (cpu_ns(pid), wants_a_core(pid)) == (0, False)
