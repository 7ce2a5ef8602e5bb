"""A container that is resized in place under load: the plan follows its CPUs and its quota, and no call is lost."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

import testbed.media
from bench.episodes.quota import quota
from tests.running import CHECKPOINTS
from tests.serving import calling, serving

FLAGS = (
    "--set",
    f"models.clip.recipe={CHECKPOINTS / 'clip-vit-base-patch32'}",
    "--set",
    "cache.enabled=false",
)
PICTURE = Path(testbed.media.__file__).parent / "text.jpg"
CPUS = os.sched_getaffinity(0)


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU cannot become fewer")
def test_cpus_that_are_taken_away_and_given_back(tmp_path: Path) -> None:
    with serving(tmp_path, *FLAGS) as server:
        before = dict(server.plan())
        with calling(server.address, PICTURE):
            os.sched_setaffinity(server.pid, {min(CPUS)})
            server.becomes("threads.image", 1)
            assert server.plan()["workers.processes"] == 1
            os.sched_setaffinity(server.pid, CPUS)
            server.becomes("threads.image", before["threads.image"])
        assert server.plan() == before
        assert "the budget is 1 cores" in server.log


@pytest.mark.skipif(len(CPUS) < 2, reason="half a CPU makes the same plan as one")
def test_a_quota_of_a_real_control_group(tmp_path: Path) -> None:
    with quota() as limit:
        if "cgroup" not in limit.kind:
            pytest.skip("this machine lets nobody make a control group")
        with ExitStack() as running:
            with limit.starting():
                server = running.enter_context(serving(tmp_path, *FLAGS))
            before = dict(server.plan())
            with calling(server.address, PICTURE):
                limit.allow(1.0, server.pid)
                server.becomes("threads.image", 1)
                limit.allow(None, server.pid)
                server.becomes("threads.image", before["threads.image"])
