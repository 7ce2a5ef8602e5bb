"""The plan follows the budget, the settings win, what cannot be is refused, and every number has its reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SettingsError
from sidecar.media import Modality
from sidecar.workers.budget import Budget
from sidecar.workers.plan import ThreadPlan, ThreadsConfig, plan_threads

GIB = 1 << 30


def budget(cpus: int, quota: float | None = None, memory_bytes: int = 64 * GIB) -> Budget:
    return Budget(cpus=tuple(range(cpus)), quota=quota, memory_bytes=memory_bytes)


@pytest.mark.parametrize(
    ("config", "processes", "given_", "plan"),
    [
        (ThreadsConfig(), None, budget(1), ThreadPlan(1, 1, 1, 1, 1)),
        (ThreadsConfig(), None, budget(2), ThreadPlan(2, 2, 2, 1, 1)),
        (ThreadsConfig(), None, budget(4), ThreadPlan(4, 4, 4, 1, 1)),
        (ThreadsConfig(), None, budget(8), ThreadPlan(4, 8, 8, 1, 1)),
        (ThreadsConfig(), None, budget(64), ThreadPlan(16, 64, 64, 1, 6)),
        (ThreadsConfig(image=1), None, budget(8), ThreadPlan(1, 1, 8, 1, 1)),
        (ThreadsConfig(image=3, audio=2, probe=4, express=3), 5, budget(8), ThreadPlan(5, 3, 2, 4, 3)),
        (ThreadsConfig(express=0), None, budget(2), ThreadPlan(2, 2, 2, 1, 0)),
        (ThreadsConfig(), 0, budget(2), ThreadPlan(0, 2, 2, 1, 1)),
    ],
)
def test_the_plan_follows_the_cores_and_the_settings_win(
    config: ThreadsConfig, processes: int | None, given_: Budget, plan: ThreadPlan
) -> None:
    assert plan_threads(config, processes, given_) == plan


@pytest.mark.parametrize(
    ("cpus", "quota", "threads"),
    [
        (64, 0.5, 1),
        (64, 1, 1),
        (64, 1.5, 1),
        (64, 2, 2),
        (64, 3, 3),
        (64, 4, 3),
        (64, 8, 7),
        (4, 4, 4),
        (4, 16, 4),
    ],
)
def test_of_a_quota_the_front_gets_its_part(cpus: int, quota: float, threads: int) -> None:
    assert plan_threads(ThreadsConfig(), None, budget(cpus, quota)).image_threads == threads


def test_a_small_memory_has_fewer_processes_with_more_threads_each() -> None:
    plan = plan_threads(ThreadsConfig(), None, budget(4, memory_bytes=400 << 20))
    assert (plan.processes, plan.image_threads) == (2, 4)
    assert plan.threads_per_process[Modality.IMAGE] == 2


@pytest.mark.parametrize(
    ("config", "processes", "key", "words"),
    [
        (ThreadsConfig(image=17), None, "threads.image", "only wait for each other"),
        (ThreadsConfig(audio=99), None, "threads.audio", "at most 16"),
        (ThreadsConfig(express=99), None, "threads.express", "at most 16"),
        (ThreadsConfig(probe=99), None, "threads.probe", "at most 16"),
        (ThreadsConfig(), 5, "workers.processes", "a process without a thread does nothing"),
        (ThreadsConfig(image=16), 12, "workers.processes", "memory limit of 600 MiB"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    config: ThreadsConfig, processes: int | None, key: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        plan_threads(config, processes, budget(2, memory_bytes=600 << 20))
    assert refused.value.facts["key"] == key


@given(
    st.integers(1, 128),
    st.one_of(st.none(), st.floats(0.01, 256)),
    st.integers(64 << 20, 64 * GIB),
)
def test_whatever_the_budget_there_is_a_plan_and_a_reason_for_each_number(
    cpus: int, quota: float | None, memory_bytes: int
) -> None:
    plan = plan_threads(ThreadsConfig(), None, budget(cpus, quota, memory_bytes))
    assert 1 <= plan.processes <= plan.image_threads <= cpus
    assert min(plan.audio_threads, plan.probe_threads, plan.express_threads) >= 1
    numbers = {reason.what: reason.number for reason in plan.reasons}
    assert numbers == {
        "threads.image": plan.image_threads,
        "threads.audio": plan.audio_threads,
        "threads.probe": plan.probe_threads,
        "threads.express": plan.express_threads,
        "workers.processes": plan.processes,
    }
    assert all(reason.why and not reason.is_set for reason in plan.reasons)


def test_a_number_set_by_hand_says_so_and_what_the_plan_would_be() -> None:
    plan = plan_threads(ThreadsConfig(image=1), None, budget(4))
    (reason,) = (each for each in plan.reasons if each.is_set)
    assert (reason.what, reason.number) == ("threads.image", 1)
    assert "own is 4" in reason.why


@pytest.mark.parametrize(
    ("plan", "image", "audio"),
    [(ThreadPlan(0, 3, 1, 1), 3, 1), (ThreadPlan(2, 3, 1, 1), 2, 1), (ThreadPlan(4, 8, 2, 1), 2, 1)],
)
def test_each_process_has_room_for_its_share(plan: ThreadPlan, image: int, audio: int) -> None:
    assert plan.threads_per_process == {Modality.IMAGE: image, Modality.AUDIO: audio}
