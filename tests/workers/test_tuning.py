"""The tuner over a live server: it finds the thread that is missing, keeps what does more, and only says so where it
may do no more than that.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference_client import Client
from sidecar.media import Modality
from sidecar.workers import tuning
from sidecar.workers.budget import Budget
from sidecar.workers.plan import ThreadsConfig
from sidecar.workers.planner import Planner, Wanted
from sidecar.workers.tuning import TunerConfig, Tuning
from tests.running import CHECKPOINTS
from tests.serving import calling, serving

FLAGS = (
    "--set",
    f"models.clip.recipe={CHECKPOINTS / 'clip-vit-base-patch32'}",
    "--set",
    "cache.enabled=false",
)


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A JPEG of 12 MP, as a camera makes them: nearly all of its work is a worker's."""
    coarse = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.mark.full
def test_it_gives_a_core_that_is_idle_its_thread_and_tells_the_evidence(
    tmp_path: Path, picture: bytes
) -> None:
    with serving(tmp_path, *FLAGS, "--set", "tuner.mode=act") as server, Client(server.address) as client:
        own = client.thread_plan()["threads.image"]
        client.set_thread_plan({"threads.image": 1})
        with calling(server.address, picture, 6):
            server.says(f"tuner: keeps threads.image {own}")
        plan = client.thread_plan()
        assert plan["threads.image"] == own
        why = plan.changes[0].why
        assert why.startswith("tuner: keeps")
        assert "work by" in why


@pytest.mark.full
def test_where_it_may_only_advise_it_says_what_it_would_try_and_changes_nothing(
    tmp_path: Path, picture: bytes
) -> None:
    with serving(tmp_path, *FLAGS, "--set", "tuner.mode=advise") as server, Client(server.address) as client:
        client.set_thread_plan({"threads.image": 1})
        with calling(server.address, picture, 6):
            server.says("tuner: items wait: would try threads.image")
        assert client.thread_plan()["threads.image"] == 1


class _Broken:
    """A load that cannot be read."""

    @property
    def done_ms(self) -> float:
        raise OSError("nothing to be read here")

    def crowded(self, threads: Mapping[Modality, int]) -> frozenset[Modality]:
        raise AssertionError(threads)


async def test_a_tuner_that_fails_gives_the_plan_back_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuning, "TICK_S", 0.0)
    planner = Planner(Wanted(ThreadsConfig()), Budget(cpus=(0, 1), quota=None, memory_bytes=8 << 30))
    planner.tune({Modality.IMAGE: 1, Modality.AUDIO: 2}, "tuner: keeps threads.image 1")
    with caplog.at_level(logging.ERROR):
        job = asyncio.create_task(Tuning(TunerConfig("act"), planner, _Broken(), tuple).watch())
        while caplog.text.count("the tuner failed") < 2:  # noqa: ASYNC110 - there is no event of a log line
            await asyncio.sleep(0)
        job.cancel()
    assert planner.plan.image_threads == 2
    assert planner.changes[-1].why == "the tuner failed"
