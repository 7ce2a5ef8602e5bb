"""A worker is warm before it is used: its first job takes what every job takes."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from inference_client import Client
from tests.isolation.inside import CLIP, Inside, inside, picture, until

PROJECT = Path(__file__).parents[2]
# A first picture faults in pages that later ones find; to compile a kernel takes 200 ms and more of one core.
FIRST_MS = 100.0


def test_after_the_warm_up_no_picture_and_no_recipe_compiles_anything() -> None:
    command = [sys.executable, "-m", "tests.isolation.compiled"]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, timeout=110, check=True)
    assert json.loads(done.stdout) == {}


def first_job_ms(it: Inside, client: Client, number: int) -> float:
    """The CPU that a new worker's first picture takes, and the worker's end."""
    (pid,) = it.pids(1)
    taken = client.preprocess("clip", picture(number)).cost.actual_cpu_ms
    client.preprocess("clip", picture(number))
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in it.crew.pids, lambda: "the killed worker is still there")
    return taken


def test_the_first_picture_of_a_new_worker_costs_as_little_as_any() -> None:
    """By CPU time, and the median of several, so that a busy machine does not matter."""
    with inside(
        {"clip": CLIP}, None, "workers=1", "threads.image=1", "threads.express=0", "log.level=error"
    ) as it:
        with Client(it.address) as client:
            firsts = [first_job_ms(it, client, number) for number in range(5)]
    assert statistics.median(firsts) < FIRST_MS
