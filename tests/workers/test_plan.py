"""The plan follows the cores, and the settings win."""

from __future__ import annotations

import pytest

from sidecar.media import Modality
from sidecar.workers.plan import ThreadPlan, ThreadsConfig, plan_threads


@pytest.mark.parametrize(
    ("config", "processes", "cores", "plan"),
    [
        (ThreadsConfig(), None, 1, ThreadPlan(1, 1, 1, 1, 1)),
        (ThreadsConfig(), None, 2, ThreadPlan(2, 2, 1, 1, 1)),
        (ThreadsConfig(), None, 4, ThreadPlan(4, 4, 2, 1, 1)),
        (ThreadsConfig(), None, 8, ThreadPlan(4, 8, 4, 1, 1)),
        (ThreadsConfig(), None, 64, ThreadPlan(16, 64, 32, 1, 6)),
        (ThreadsConfig(image=1), None, 8, ThreadPlan(1, 1, 4, 1, 1)),
        (ThreadsConfig(image=3, audio=2, probe=4, express=3), 5, 8, ThreadPlan(5, 3, 2, 4, 3)),
        (ThreadsConfig(express=0), None, 2, ThreadPlan(2, 2, 1, 1, 0)),
        (ThreadsConfig(), 0, 2, ThreadPlan(0, 2, 1, 1, 1)),
    ],
)
def test_the_plan_follows_the_cores_and_the_settings_win(
    config: ThreadsConfig, processes: int | None, cores: int, plan: ThreadPlan
) -> None:
    assert plan_threads(config, processes, cores) == plan


@pytest.mark.parametrize(
    ("plan", "image", "audio"),
    [(ThreadPlan(0, 3, 1, 1), 3, 1), (ThreadPlan(2, 3, 1, 1), 2, 1), (ThreadPlan(4, 8, 2, 1), 2, 1)],
)
def test_each_process_has_room_for_its_share(plan: ThreadPlan, image: int, audio: int) -> None:
    assert plan.threads_per_process == {Modality.IMAGE: image, Modality.AUDIO: audio}
