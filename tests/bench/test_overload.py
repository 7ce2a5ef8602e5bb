"""The overload benchmark: its arithmetic, its load, and the limit of memory that it sets."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from xml.etree import ElementTree as ET

import grpc
import pytest
from grpc import aio
from PIL import Image

from bench import confined, contest, flood, ground, overload, storm, tables
from bench.chart import Panel, curves
from bench.contest import Alone, Capacity, Reading, Stretch
from bench.ground import OURS
from bench.mix import KINDS
from bench.policies import COUNT_BASED, POLICIES
from bench.sidecars import CHECKPOINT
from bench.storm import Answer, Shot, Status
from inference_client import Client, Retries
from inference_client.errors import Overloaded

ICON, LARGE = KINDS[0], KINDS[2]
COSTS = {
    "icon": Alone(3.0, 2.0, 0.003),
    "1080p": Alone(11.0, 10.0, 0.01),
    "12 MP": Alone(52.0, 50.0, 0.06),
    "audio": Alone(202.0, 200.0, 0.2),
}
METHOD = "/test.Service/Call"


def answer(status: Status = Status.OK, taken_s: float = 0.1, kind: Any = ICON, due_s: float = 1.0) -> Answer:
    return Answer(Shot(due_s, kind, b"", kind.deadline_s), status, taken_s, 0.001)


class TestMix:
    def test_by_count_it_is_small_and_by_work_large(self) -> None:
        small, large = KINDS[:2], KINDS[2:]
        assert sum(kind.percent for kind in KINDS) == 100
        assert sum(kind.percent for kind in small) == 90
        work = {kind.name: kind.percent * COSTS[kind.name].work_ms for kind in KINDS}
        assert sum(work[kind.name] for kind in large) > sum(work[kind.name] for kind in small)


class TestFigures:
    def test_only_what_met_its_deadline_counts_and_by_its_kinds_work(self) -> None:
        answers = [
            answer(),
            answer(Status.REFUSED),
            answer(taken_s=0.3),
            answer(kind=LARGE),
            answer(Status.LATE),
        ]
        found = contest.figures(Stretch(answers, 2.0, 0.5, 0.1, 1.0), COSTS, Capacity(100.0, 1.5, 0.5), 2)
        assert found.met == pytest.approx(2 / 5)
        assert found.goodput == pytest.approx(0.052 / 3.0)
        assert found.goodput_left == found.goodput

    def test_cores_that_others_took_more_of_than_at_capacity_are_not_held_against_the_server(self) -> None:
        found = contest.figures(Stretch([answer()], 1.0, 1.0, 0.1, 1.0), COSTS, Capacity(100.0, 1.5, 0.5), 2)
        assert found.goodput_left == pytest.approx(found.goodput * 1.5)

    def test_whoever_was_not_answered_in_time_waited_for_its_deadline(self) -> None:
        assert contest.waits([answer(), answer(Status.REFUSED), answer(taken_s=9.0)]) == [0.1, 0.25, 0.25]

    def test_a_case_tells_shares_of_every_kind(self) -> None:
        answers = [
            answer(),
            answer(Status.REFUSED, taken_s=0.004),
            answer(kind=LARGE),
            answer(Status.LATE, kind=LARGE),
        ]
        found = Stretch(answers, 2.0, 0.5, 0.1, 1.0)
        figures = contest.figures(found, COSTS, Capacity(100.0, 1.5, 0.5), 2)
        case = contest.case("ours", 2.0, [found], [figures])
        assert (case["met_icon"], case["met_12 MP"]) == (0.5, 0.5)
        assert (case["refused"], case["late"], case["refused_p99_ms"]) == (0.25, 0.25, 4.0)
        assert case["small_p99_ms"] == 250.0


class TestRecovery:
    @pytest.mark.parametrize(
        ("met_from_s", "well_after_s"), [(0.0, 0.0), (0.4, 0.5), (1.2, 1.5), (99.0, 2.0)]
    )
    def test_it_is_well_when_no_half_second_is_bad_any_more(
        self, met_from_s: float, well_after_s: float
    ) -> None:
        answers = [
            answer(Status.OK if at_s / 10 >= met_from_s else Status.LATE, due_s=10 + at_s / 10)
            for at_s in range(20)
        ]
        assert contest.well_after(answers, 10.0, 12.0) == well_after_s

    def test_a_profile_is_told_by_its_parts(self) -> None:
        answers = [answer(due_s=0.5), answer(Status.LATE, due_s=1.5), answer(due_s=2.5)]
        case = contest.unsteady_case("pulse", "ours", [(1.0, 0.5), (1.0, 3.0), (1.0, 0.5)], answers)
        assert [case[f"met_{part}"] for part in range(3)] == [1.0, 0.0, 1.0]


class TestOthers:
    def test_the_servers_own_time_is_not_others(self) -> None:
        before, after = Reading(10.0, {1: 0}), Reading(12.5, {1: 1_500_000_000, 2: 500_000_000})
        assert contest.others(before, after) == pytest.approx(0.5)

    def test_a_core_is_busy_for_no_longer_than_it_is_there(self) -> None:
        found = contest.busy_s([0])
        assert 0 < found <= contest.busy_s([0]) < 1e9


class TestTargets:
    def cases(self, **changed: Any) -> list[dict[str, Any]]:
        """A run in which everything holds."""
        contested = [
            {
                "kind": "contest",
                "policy": policy,
                "load": load,
                "goodput_of_cores_left": 0.97,
                "met": 0.92 if policy == OURS else 0.2,
                "small_p99_ms": 20.0,
                "refused_p99_ms": 4.0,
                **changed,
            }
            for policy in (OURS, *POLICIES)
            for load in overload.LOADS
        ]
        flooded = {"peak_mib": 900, "limit_mib": 1024, "processes_lost": 0, "killed_for_memory": 0}
        return [
            *contested,
            {"kind": "alone", "name": "icon", "p50_ms": 3.0},
            {"kind": "tenants", "gap_over_largest": 1.0},
            {"kind": "refusals", "front_cpu_us": 250.0},
            {"kind": "reuse", "case": "a hit", "hit_over_miss": 0.05, "kept": 1.0},
            {"kind": "together", "made": 1},
            {"kind": "flood", **flooded, "failed": 0, "answered": 5},
        ]

    def failed(self, cases: Sequence[dict[str, Any]]) -> list[str]:
        return [each["target"] for each in overload.targets(cases) if not each["holds"]]

    def test_a_good_run_holds(self) -> None:
        assert self.failed(self.cases()) == []

    def test_each_bound_is_the_issues(self) -> None:
        assert [each["bound"] for each in overload.targets(self.cases())] == [
            *("at least 0.95", "at least 0.9", "at least 2"),
            *("at least 0.88", "at least 0.65", "at least 2"),
            *(
                "at most 10",
                "at most 2",
                "at most 300",
                "at most 5",
                "at least 1",
                "at most 0.1",
                "at most 1",
            ),
        ]

    def test_others_that_do_as_well_take_the_claim_away(self) -> None:
        assert len(self.failed(self.cases(met=0.92))) == 2

    def test_a_hit_that_was_none_does_not_count(self) -> None:
        cases = self.cases()
        next(case for case in cases if case["kind"] == "reuse")["kept"] = 0.9
        assert self.failed(cases) == ["a hit, CPU"]

    @pytest.mark.parametrize(
        "bad", [{"peak_mib": 1025}, {"processes_lost": 1}, {"failed": 1}, {"answered": 0}]
    )
    def test_a_flood_that_was_not_held_is_told(self, bad: dict[str, int]) -> None:
        case = next(case for case in self.cases() if case["kind"] == "flood")
        assert flood.held(case)
        assert not flood.held(case | bad)

    def test_the_count_based_ones_are_policies(self) -> None:
        assert set(COUNT_BASED) < set(POLICIES)


@asynccontextmanager
async def replying() -> AsyncIterator[str]:
    """A server whose replies are told by the requests: their own bytes, a refusal, or none."""

    async def reply(data: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        if data == b"refuse":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if data == b"fail":
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        if data == b"never":
            await asyncio.sleep(30)
        return data

    class Handlers(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(reply)

    server = aio.server()
    server.add_generic_rpc_handlers([Handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class TestStorm:
    async def test_every_shot_has_its_answer_and_status_in_order(self) -> None:
        wanted = [b"one", b"refuse", b"never", b"fail"]
        every = [Shot(0.01 * at, ICON, data, 0.4) for at, data in enumerate(wanted)]
        async with replying() as address, storm.callers(address, METHOD) as asks:
            found = await storm.storm(asks, every)
        assert [each.shot.request for each in found] == wanted
        assert [each.status for each in found] == [Status.OK, Status.REFUSED, Status.LATE, Status.FAILED]
        assert [each.met for each in found] == [True, False, False, False]
        assert found[0].reply == b"one"

    async def test_shots_go_out_while_others_have_no_answer_and_marks_are_kept(self) -> None:
        marked: list[str] = []
        every = [Shot(0.0, ICON, b"never", 0.3), Shot(0.05, ICON, b"one", 0.2)]
        async with replying() as address, storm.callers(address, METHOD) as asks:
            found = await storm.storm(asks, every, [(0.1, lambda: marked.append("here"))])
        assert [each.status for each in found] == [Status.LATE, Status.OK]
        assert found[0].taken_s >= 0.25
        assert min(each.lag_s for each in found) >= -0.002
        assert marked == ["here"]


def test_a_seed_shoots_the_same_again_by_the_mixs_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real files take half a minute to make.
    monkeypatch.setattr(storm, "requests", lambda: {kind.name: (kind.name.encode(),) for kind in KINDS})
    first, again = (storm.shots([(20.0, 100.0), (5.0, 300.0)], 3) for _ in range(2))
    assert first == again
    assert [shot.due_s for shot in first] == sorted(shot.due_s for shot in first)
    icons = sum(shot.kind is ICON for shot in first) / len(first)
    assert icons == pytest.approx(0.6, abs=0.05)
    assert sum(shot.due_s >= 20 for shot in first) == pytest.approx(1500, rel=0.15)


def test_who_prefers_itself_gives_it_back() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with storm.preferred() as is_preferred:
        assert (os.getpriority(os.PRIO_PROCESS, 0) < before) == is_preferred
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


class TestConfined:
    TAKE = "print(len(b'x' * (200 << 20)))"

    def test_who_takes_more_than_the_limit_is_ended_by_the_kernel_and_told(self) -> None:
        with confined.confined(64 << 20) as group:
            if group is None:
                pytest.skip("no control groups for memory here, or not ours to make")
            done = subprocess.run(
                group.command([sys.executable, "-c", self.TAKE]), check=False, capture_output=True
            )
            assert done.returncode != 0
            assert group.killed == 1
            assert group.peak_bytes <= 64 << 20
        assert not group.folder.exists()

    def test_who_stays_within_it_is_left_alone(self) -> None:
        with confined.confined(512 << 20) as group:
            if group is None:
                pytest.skip("no control groups for memory here, or not ours to make")
            subprocess.run(group.command([sys.executable, "-c", self.TAKE]), check=True, capture_output=True)
            assert (group.killed, group.peak_bytes > 200 << 20) == (0, True)

    def test_memory_of_a_tree_is_seen(self) -> None:
        assert confined.resident_bytes(os.getpid()) > 10 << 20


def result() -> dict[str, Any]:
    """Two policies at two loads, as far as tables and charts need it."""
    cases = [
        {
            "kind": "contest",
            "policy": policy,
            "load": load,
            "goodput_of_cores_left": met,
            "met": met,
            **{f"met_{kind.name}": met for kind in KINDS},
            "small_p99_ms": 20.4,
            "refused": 1 - met,
            "refused_p99_ms": 4.21 if load > 2 else None,
        }
        for policy, load, met in (
            (OURS, 1.0, 1.0),
            (OURS, 4.0, 0.75),
            ("fifo", 4.0, 0.5),
        )
    ]
    alone = [
        {
            "kind": "alone",
            "name": kind.name,
            "cpu_ms": 2.0,
            "work_ms": 1.0,
            "times_the_smallest": 1.0,
            "p50_ms": 3.0,
        }
        for kind in KINDS
    ]
    mix = {kind.name: {"percent": kind.percent, "deadline_s": kind.deadline_s} for kind in KINDS}
    return {"cases": [*cases, *alone], "load": {"mix": mix}}


class TestDrawn:
    def test_only_overloads_are_in_the_table(self) -> None:
        lines = tables.overload(result()).splitlines()
        assert lines[2:] == [
            "| **this sidecar** | 4 × | 75 % | 75 % | 75 % | 75 % | 75 % | 75 % | 20 | 25 % | 4.2 |",
            "| FIFO, no control | 4 × | 50 % | 50 % | 50 % | 50 % | 50 % | 50 % | 20 | 50 % | 4.2 |",
        ]

    def test_the_mix_is_told_with_its_costs(self) -> None:
        assert "| icon | 60 % | 2.0 | 1 | 3.0 | 0.25 |" in tables.overload_mix(result())

    def test_every_policy_has_a_line_in_both_panels_through_what_was_measured(self) -> None:
        drawn = ET.fromstring(tables.overload_chart(result()))
        points = [line.get("points", "").split() for line in drawn.findall("{*}polyline")]
        assert [len(each) for each in points] == [2, 1, 2, 1]

    def test_a_line_falls_with_its_values(self) -> None:
        drawn = ET.fromstring(curves("t", ["one"], ["1", "2"], "load", [Panel("p", [[100.0, 0.0]])]))
        (first, second) = (drawn.findall("{*}polyline")[0].get("points") or "").split()
        assert float(first.partition(",")[2]) < float(second.partition(",")[2])


def test_a_server_with_another_policy_refuses_by_it() -> None:
    """CoDel's and the others' servers are the sidecar's own but for that; the strictest shows it."""
    settings = {"models.pictures.recipe": str(CHECKPOINT), "workers": "0", "arena.bytes": "67108864"}
    with (
        ground.started([sys.executable, "-m", "bench.policy_server", "limit16"], settings) as running,
        Client(running.address, retries=Retries(attempts=1)) as client,
    ):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        assert client.preprocess("pictures", buffer.getvalue()).tensors
        with pytest.raises(Overloaded, match="16 may be"):
            client.preprocess("pictures", [buffer.getvalue()] * 17)
