"""The operational laws: which bound is met, and what a change of threads, cores, quota or work would give."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from sidecar.media import Modality
from sidecar.observe.advice import Alternatives, Line, Situation, advise, laws, predicted
from sidecar.observe.demand import Demand
from sidecar.observe.machine import Spell
from sidecar.observe.starvation import Booked, Cause, State
from sidecar.observe.verdict import Bell, Finding, judge

SECOND = 1_000_000_000
WINDOW_S = 10.0


def situation(
    *,
    rate: float = 100.0,
    cpu_ms: float = 10.0,
    threads: int = 1,
    cores: int = 4,
    front: float = 0.1,
    others: float = 0.1,
    quota: float | None = None,
    throttled: float = 0.0,
    callers: float = 16.0,
    waited: float = 0.8,
    ceiling: float = 0.0,
    state: State = State.IDLE_PREP,
    cause: Cause = Cause.DECODE,
    fill: float = 0.0,
    **more: object,
) -> Situation:
    """Pictures at `rate` a second, each `cpu_ms` of a worker; `waited` of an answer's time was for a worker."""
    items = round(rate * WINDOW_S)
    residence_ns = round(callers * WINDOW_S * SECOND)
    demand = Demand(
        calls=items,
        items={Modality.IMAGE: items},
        cpu_ms={Modality.IMAGE: items * cpu_ms},
        residence_ns=residence_ns,
        waited_ns=round(residence_ns * waited),
    )
    workers = rate * cpu_ms / 1e3
    spell = Spell(
        seconds=WINDOW_S,
        budget=cores if quota is None else min(cores, quota),
        front=front,
        workers=workers,
        idle=max(0.0, cores - front - workers - others),
        throttled=throttled,
        cores=cores,
        quota_cores=quota,
    )
    span = round(WINDOW_S * SECOND)
    booked = Booked(
        0,
        span,
        Counter({State.BUSY: span // 2, state: span // 2}),
        Counter({(cause, Modality.IMAGE): span // 2}) if state is State.IDLE_PREP else Counter(),
        fill_ns=fill * span,
        settled_ns=span,
    )
    made = Situation(
        verdict=judge("model", booked, booked, Bell()),
        demand=demand,
        spell=spell,
        threads={Modality.IMAGE: threads, Modality.AUDIO: 1},
        express=1,
        rows_per_s=rate,
        ceiling=ceiling,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def line(found: list[Line], setting: str) -> Line:
    (one,) = [each for each in found if each.setting.startswith(setting)]
    return one


def test_a_full_thread_gives_twice_as_much_with_another() -> None:
    more = line(advise(situation(rate=97, threads=1, cores=4)), "threads.image")
    assert (more.present, more.proposed) == ("1", "2")
    assert more.now == pytest.approx(97)
    assert more.then == pytest.approx(194)


def test_what_a_thread_gives_is_bounded_by_cores_and_all_who_use_them() -> None:
    # 10 ms of a worker, 2 of the front and 3 of others an item: two cores give 133.
    more = line(advise(situation(rate=97, cores=2, front=0.194, others=0.291)), "threads.image")
    assert more.then == pytest.approx(2 / 0.015, rel=0.01)


def test_threads_that_are_not_full_are_not_proposed() -> None:
    found = advise(situation(rate=60, threads=1, waited=0.0, callers=1.0))
    assert not [each for each in found if each.setting.startswith("threads")]


def test_full_cores_want_a_core_and_a_thread_more() -> None:
    found = advise(situation(rate=170, threads=2, cores=2, front=0.15, others=0.12))
    more = line(found, "cores (resources.limits.cpu")
    assert (more.present, more.proposed) == ("2", "3")
    assert more.then == pytest.approx(255, rel=0.03)


def test_a_quota_is_named_with_its_value_and_what_it_took() -> None:
    # Half a core, all of it used.
    found = advise(
        situation(rate=45, threads=2, cores=4, quota=0.5, front=0.05, throttled=0.6, cause=Cause.THROTTLED)
    )
    more = line(found, "resources.limits.cpu")
    assert (more.present, more.proposed) == ("0.5", "1.5")
    assert more.then == pytest.approx(135, rel=0.05)
    assert "60%" in more.why


def test_fast_mode_and_uint8_are_foretold_by_what_the_media_would_take() -> None:
    found = advise(situation(rate=97, alternatives=(Alternatives("clip", fast=0.5, uint8=0.8),)))
    assert line(found, "models.clip.mode").then == pytest.approx(194)
    assert line(found, "input type of model").then == pytest.approx(97 / 0.8)


def test_nothing_is_foretold_beyond_the_accelerators_ceiling() -> None:
    found = advise(situation(rate=97, ceiling=120))
    assert all(each.then <= 120.5 for each in found if math.isfinite(each.then))


def test_cores_to_keep_it_fed_are_no_more_than_callers_can_use() -> None:
    # Waiting is 0.8 of an answer's time: without it the same callers ask five times as much.
    found = advise(situation(rate=97, threads=1, cores=1, front=0.0, others=0.0, ceiling=10_000))
    assert line(found, "cores, to keep").proposed == str(math.ceil(5 * 97 * 0.01 / 0.85))
    assert line(found, "cores, to reach").proposed == str(math.ceil(10_000 * 0.01 / 0.85))


def test_callers_who_are_few_ask_no_more_than_their_answers_allow() -> None:
    now = laws(situation(rate=50, threads=1, waited=0.0, callers=1.0, cores=8))
    assert now is not None
    assert predicted(now, replace(now, threads={Modality.IMAGE: 4})) == pytest.approx(50)
    # An answer takes 20 ms, 10 of them a worker's: half of that saved is 15 ms an answer.
    halved = replace(now, worked_s=0.01)
    assert predicted(halved, replace(halved, scale=0.5)) == pytest.approx(50 * 20 / 15)


@pytest.mark.parametrize(
    ("state", "finding", "setting"),
    [
        (State.IDLE_XFER, Finding.TRANSPORT, "triton.address"),
        (State.IDLE_BATCH, Finding.BATCH, "config.pbtxt of model: instance_group.count"),
        (State.HUNG, Finding.HUNG, "model server: model"),
    ],
)
def test_what_is_not_ours_says_whose_it_is(state: State, finding: Finding, setting: str) -> None:
    made = situation(state=state)
    assert made.verdict.finding is finding
    (only,) = advise(made)
    assert only.setting == setting
    assert math.isnan(only.then)


def test_bytes_instead_of_shared_memory_are_told_by_their_setting() -> None:
    (only,) = advise(situation(state=State.IDLE_XFER, raw_bytes=True))
    assert only.setting == "triton.shared_memory"


def test_a_batch_delay_is_named_with_its_value() -> None:
    (only,) = advise(situation(state=State.IDLE_BATCH, batch_delay_us=40_000))
    assert (only.present, only.proposed) == ("40000", "10000")


def test_slow_callers_are_not_helped_by_cores() -> None:
    (only,) = advise(situation(cause=Cause.RECEIVE))
    assert only.setting == "callers"


def test_a_late_front_is_helped_by_another() -> None:
    (only,) = advise(situation(cause=Cause.DELIVER, rate=50))
    assert only.setting == "replicas"


def test_a_late_front_behind_full_threads_is_helped_by_threads_too() -> None:
    found = advise(situation(cause=Cause.DELIVER))
    assert line(found, "threads.image").then > line(found, "threads.image").now
    assert line(found, "replicas")


def test_a_busy_accelerator_with_half_empty_batches_is_helped_by_threads() -> None:
    made = situation(state=State.BUSY, fill=0.3, target_rows=16, ceiling=1000, rate=97)
    assert made.verdict.finding is Finding.ACCELERATOR
    found = advise(made)
    assert line(found, "threads.image").then > 150
    assert line(found, "config.pbtxt of model: dynamic_batching")


def test_a_busy_accelerator_with_full_batches_needs_nothing() -> None:
    assert advise(situation(state=State.BUSY)) == []


def test_without_worker_processes_work_is_counted_once() -> None:
    alone = situation(rate=97, front=0.97 + 0.05, cores=4)
    spell = replace(alone.spell, workers=0.0)
    found = laws(replace(alone, spell=spell))
    assert found is not None
    assert found.front_s == pytest.approx(0.05 / 97, abs=1e-4)


def test_without_work_there_is_no_law() -> None:
    assert laws(replace(situation(), demand=Demand())) is None
