"""What both clients make of a verdict, over a real channel; and that a real sidecar's is one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing
from itertools import islice
from typing import Any

import grpc
import pytest
from multimodal.v1 import diagnostics_pb2 as pb

import inference_client
from inference_client import (
    AcceleratorState,
    Advice,
    AsyncClient,
    CallCancelled,
    CallerError,
    Cause,
    Client,
    Diagnosis,
    Finding,
    Fleet,
    Gpu,
    Hedges,
    InvalidRequest,
    Lane,
    Machine,
    Modality,
    Overloaded,
    SelfCheck,
    ServerUnavailable,
    StageLoad,
    StarvationLevel,
    StarvedTime,
    UnknownModel,
    UpstreamVerdict,
    Worker,
    diagnosis,
)
from tests.inference_client.scripted_server import HANG, Refusal, ScriptedServer, serving
from tests.inference_client.verdicts import CHECKED, quiet, upstream, verdict, well
from tests.running import running

Code = grpc.StatusCode


async def watched(caller: Any, most: int, *arguments: Any, **options: Any) -> list[Diagnosis]:
    """The first so many verdicts that a client of either kind is told; then it stops watching."""
    watching = caller.client.watch(*arguments, **options)

    def some() -> list[Diagnosis]:
        with closing(watching):
            return list(islice(watching, most))

    if isinstance(caller.client, Client):
        return await asyncio.to_thread(some)
    got: list[Diagnosis] = []
    async with aclosing(watching):
        async for each in watching:
            got.append(each)
            if len(got) == most:
                break
    return got


async def told(caller: Any, server: ScriptedServer, message: pb.VerdictResponse) -> Diagnosis:
    server.will("Verdict", message)
    found = await caller.call("verdict")
    assert isinstance(found, Diagnosis)
    return found


class TestVerdict:
    async def test_every_field_arrives(self, caller: Any, server: ScriptedServer) -> None:
        found = await told(caller, server, verdict(upstream()))
        assert found == Diagnosis(
            window_s=10.0,
            upstreams=(
                UpstreamVerdict(
                    upstream="clip",
                    models=("clip", "clip_fast"),
                    finding=Finding.STARVED,
                    level=StarvationLevel.SEVERE,
                    cause=Cause.DECODE,
                    modality=Modality.IMAGE,
                    summary="clip: starved 38% of the time, mostly by image decode.",
                    alarm=True,
                    alarm_for_s=12.5,
                    starved=0.375,
                    underfilled=0.125,
                    utilisation=0.526,
                    states={
                        AcceleratorState.BUSY: 5.0,
                        AcceleratorState.HUNG: 0.0,
                        AcceleratorState.IDLE_BATCH: 0.5,
                        AcceleratorState.IDLE_XFER: 0.25,
                        AcceleratorState.IDLE_PREP: 3.75,
                        AcceleratorState.IDLE_DEMAND: 0.5,
                    },
                    causes=(
                        StarvedTime(Cause.DECODE, Modality.IMAGE, 2.75),
                        StarvedTime(Cause.THROTTLED, None, 1.0),
                    ),
                    advice=(
                        Advice("threads.image", "2", "3", "its threads are all in use", 61.25, 98.5),
                        Advice("callers", "far", "nearer", "workers wait for bytes"),
                    ),
                    rows_per_s=61.25,
                    ceiling_rows_per_s=120.5,
                    counted=True,
                    note="the driver says 80% and the accounts 50%",
                ),
            ),
            stages=(
                StageLoad("admit", Modality.IMAGE, 40.0),
                StageLoad("decode", Modality.IMAGE, 15.0),
                StageLoad("decode", Modality.AUDIO, 2.5),
                StageLoad("deliver", None, 1.0),
            ),
            lanes=(Lane(Modality.IMAGE, 1, 7, 0.075), Lane(Modality.AUDIO, 3, 0, 0.0)),
            fleet=Fleet(
                3,
                2,
                1,
                4,
                11,
                7,
                5,
                6,
                (Worker(4711, 0.95), Worker(4712, 0.55)),
                "rlimits, seccomp; not here: landlock (no such kernel)",
            ),
            machine=Machine(8, 2.5, 0.25, 1.5, 5.75, 0.125),
            gpus=(Gpu(0, "NVIDIA H200", 0.8, 0.625),),
        )

    async def test_what_is_not_known_is_none(self, caller: Any, server: ScriptedServer) -> None:
        found = await told(caller, server, verdict(quiet(), machine=pb.Machine(cores=2)))
        (ocr,) = found.upstreams
        assert (ocr.cause, ocr.modality, ocr.utilisation, ocr.ceiling_rows_per_s) == (None,) * 4
        assert found.machine is not None
        assert found.machine.quota is None

    async def test_a_sidecar_that_has_nothing_to_tell_yet_tells_that(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        found = await told(caller, server, pb.VerdictResponse(window_s=10))
        assert found == Diagnosis(10.0, (), (), (), Fleet(0, 0, 0, 0, 0, 0, 0, 0, ()), None, ())

    async def test_enum_values_of_a_newer_server_are_unknown(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        states = [pb.StateTime(state=number, seconds=1) for number in (98, 99)]  # type: ignore[arg-type]
        newer = upstream(finding=99, level=99, cause=99, modality=99, states=states)
        (found,) = (await told(caller, server, verdict(newer))).upstreams
        assert (found.finding, found.level) == (Finding.UNKNOWN, StarvationLevel.UNKNOWN)
        assert (found.cause, found.modality) == (Cause.UNKNOWN, Modality.UNKNOWN)
        assert found.states == {AcceleratorState.UNKNOWN: 2.0}

    async def test_the_window_and_the_upstream_are_asked_for(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("Verdict", verdict())
        await caller.call("verdict", "clip", window_s=2.5)
        assert server.request("Verdict") == pb.VerdictRequest(upstream="clip", window_s=2.5)

    async def test_a_refusal_is_raised_by_its_reason(self, caller: Any, server: ScriptedServer) -> None:
        server.will("Verdict", Refusal(Code.INVALID_ARGUMENT, "INVALID_REQUEST", message="`window_s` is 99"))
        with pytest.raises(InvalidRequest, match="`window_s` is 99"):
            await caller.call("verdict", window_s=99)

    async def test_a_sidecar_without_diagnostics_says_so_by_its_status(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("Verdict", Refusal(Code.UNIMPLEMENTED))
        with pytest.raises(CallerError) as caught:
            await caller.call("verdict")
        assert caught.value.status == "UNIMPLEMENTED"

    async def test_where_nobody_answers_it_is_told_at_once(self, connect: Any) -> None:
        with pytest.raises(ServerUnavailable, match=r"no sidecar answered at 127\.0\.0\.1:1"):
            await connect("127.0.0.1:1").call("verdict")

    async def test_it_is_neither_tried_again_nor_hedged(self, connect: Any, server: ScriptedServer) -> None:
        server.will("Verdict", Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN"))
        caller = connect(server.address, hedges=Hedges(after_s=0.0, budget=1.0))
        with pytest.raises(inference_client.ShuttingDown):
            await caller.call("verdict")
        assert server.attempts("Verdict") == 1


class TestWatch:
    @staticmethod
    def said(*messages: pb.VerdictResponse) -> list[pb.WatchVerdictResponse]:
        return [pb.WatchVerdictResponse(verdict=each) for each in messages]

    async def test_verdicts_come_one_by_one_until_the_server_has_no_more(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("WatchVerdict", self.said(verdict(upstream()), verdict(well())))
        first, second = await watched(caller, 9, "clip", window_s=2.0, interval_s=0.5)
        assert (first.upstreams[0].finding, second.upstreams[0].finding) == (
            Finding.STARVED,
            Finding.ACCELERATOR,
        )
        asked = pb.WatchVerdictRequest(upstream="clip", window_s=2.0, interval_s=0.5)
        assert server.request("WatchVerdict") == asked

    async def test_who_stops_watching_is_gone_for_the_server(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        server.will("WatchVerdict", [*self.said(verdict()), HANG])
        assert len(await watched(caller, 1)) == 1
        await server.left.wait()

    async def test_a_failure_is_raised_after_what_came_before_it(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        busy = Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED")
        server.will("WatchVerdict", [*self.said(verdict()), busy])
        assert len(await watched(caller, 1)) == 1
        with pytest.raises(Overloaded):
            await watched(caller, 2)

    async def test_a_server_that_goes_away_ends_it_as_an_error_of_transport(
        self, connect: Any, unused_tcp_port: int
    ) -> None:
        async with serving(f"127.0.0.1:{unused_tcp_port}") as server:
            server.will("WatchVerdict", [*self.said(verdict()), HANG])
            watching = asyncio.create_task(watched(connect(f"127.0.0.1:{unused_tcp_port}"), 2))
            await server.hanging.wait()
        with pytest.raises((ServerUnavailable, CallCancelled)):
            await watching

    async def test_closing_the_client_ends_it_as_cancelled(self, caller: Any, server: ScriptedServer) -> None:
        server.will("WatchVerdict", [HANG])
        watching = asyncio.create_task(watched(caller, 1))
        await server.hanging.wait()
        await caller.close()
        with pytest.raises(CallCancelled):
            await watching

    async def test_cancelling_the_task_that_watches_is_a_cancellation(self, server: ScriptedServer) -> None:
        server.will("WatchVerdict", [HANG])
        async with AsyncClient(server.address) as client:
            watching = asyncio.create_task(anext(client.watch()))
            await server.hanging.wait()
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
            await server.left.wait()

    async def test_a_closed_client_says_so(self, caller: Any) -> None:
        await caller.close()
        with pytest.raises(RuntimeError, match="closed"):
            await watched(caller, 1)


class TestSelfCheck:
    async def test_both_ways_to_the_figure_are_told(self, caller: Any, server: ScriptedServer) -> None:
        server.will("SelfCheck", CHECKED)
        found = await caller.call("self_check", "clip", seconds=1.5, timeout=9)
        assert found == SelfCheck("clip", 61.0, 100.0, 0.39, 0.375, True, CHECKED.summary)
        assert str(found) == CHECKED.summary
        assert server.request("SelfCheck") == pb.SelfCheckRequest(model="clip", seconds=1.5)

    async def test_what_cannot_be_checked_is_an_error(self, caller: Any, server: ScriptedServer) -> None:
        server.will("SelfCheck", Refusal(Code.NOT_FOUND, "UNKNOWN_MODEL"))
        with pytest.raises(UnknownModel):
            await caller.call("self_check", "nonsense")


class TestPrinted:
    async def test_a_diagnosis_reads_as_sentences_and_what_would_help(
        self, caller: Any, server: ScriptedServer
    ) -> None:
        found = await told(caller, server, verdict(upstream(), well()))
        assert str(found).splitlines() == [
            "clip: starved 38% of the time, mostly by image decode.",
            "  set threads.image: 2 -> 3; 61 rows/s would be 98 rows/s: its threads are all in use",
            "  callers: far -> nearer: workers wait for bytes",
            "vit: the accelerator is the limit, busy 97% of the time.",
        ]
        assert str(found.upstreams[0]) == found.upstreams[0].summary

    async def test_one_of_nothing_says_why(self, caller: Any, server: ScriptedServer) -> None:
        assert "no model server is watched" in str(await told(caller, server, verdict()))

    @pytest.mark.parametrize(
        ("setting", "begins"),
        [
            ("models.my-clip.mode", "set models.my-clip.mode: "),
            ("cores (resources.limits.cpu, or the node's)", "cores (resources.limits.cpu, or the node's): "),
            ("config.pbtxt of clip: instance_group.count", "config.pbtxt of clip: instance_group.count: "),
            ("callers", "callers: "),
        ],
    )
    def test_only_keys_of_the_settings_are_to_be_set(self, setting: str, begins: str) -> None:
        assert str(Advice(setting, "a", "b", "why")) == f"{begins}a -> b: why"

    def test_small_rates_have_a_digit_more(self) -> None:
        assert "; 0.4 rows/s would be 9.6 rows/s:" in str(Advice("a.b", "1", "2", "why", 0.44, 9.56))

    async def test_shares_are_parts_of_all_states(self, caller: Any, server: ScriptedServer) -> None:
        found = await told(caller, server, verdict(upstream(), upstream("new", states=[])))
        clip, new = found.upstreams
        assert clip.shares[AcceleratorState.IDLE_PREP] == pytest.approx(0.375)
        assert sum(clip.shares.values()) == pytest.approx(1)
        assert new.shares == {}


# What the contract's enums are called here.
ENUMS: dict[str, tuple[Any, Any]] = {
    "ACCELERATOR_STATE": (pb.AcceleratorState, AcceleratorState),
    "CAUSE": (pb.Cause, Cause),
    "FINDING": (pb.Finding, Finding),
    "STARVATION_LEVEL": (pb.StarvationLevel, StarvationLevel),
}


@pytest.mark.parametrize("prefix", ENUMS)
def test_every_value_of_the_contract_has_a_name_here(prefix: str) -> None:
    theirs, ours = ENUMS[prefix]
    names = {name.removeprefix(f"{prefix}_") for name in theirs.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - no mapping
    assert {each.name for each in ours} == names | {"UNKNOWN"}


async def test_every_value_of_the_contract_is_read(caller: Any, server: ScriptedServer) -> None:
    findings = [number for number in pb.Finding.values() if number]
    found = await told(caller, server, verdict(*(upstream(finding=number) for number in findings)))
    assert {each.finding for each in found.upstreams} == set(Finding) - {Finding.UNKNOWN}
    causes = [pb.StarvedTime(cause=number) for number in pb.Cause.values() if number]
    (one,) = (await told(caller, server, verdict(upstream(causes=causes)))).upstreams
    assert {each.cause for each in one.causes} == set(Cause) - {Cause.UNKNOWN}
    levels = [number for number in pb.StarvationLevel.values() if number]
    found = await told(caller, server, verdict(*(upstream(level=number) for number in levels)))
    assert {each.level for each in found.upstreams} == set(StarvationLevel) - {StarvationLevel.UNKNOWN}
    states = [pb.StateTime(state=number) for number in pb.AcceleratorState.values() if number]
    (one,) = (await told(caller, server, verdict(upstream(states=states)))).upstreams
    assert set(one.states) == set(AcceleratorState) - {AcceleratorState.UNKNOWN}


@pytest.mark.parametrize(
    "name",
    [name for name, kind in vars(diagnosis).items() if getattr(kind, "__module__", "") == diagnosis.__name__],
)
def test_all_that_a_diagnosis_is_made_of_is_exported(name: str) -> None:
    if not name.startswith("_"):
        assert getattr(inference_client, name) is getattr(diagnosis, name)
        assert name in inference_client.__all__


def test_what_is_exported_is_sorted_and_there() -> None:
    def as_ruff(name: str) -> tuple[bool, str]:
        return name[0].islower(), name

    assert sorted(inference_client.__all__, key=as_ruff) == inference_client.__all__
    assert [name for name in inference_client.__all__ if not hasattr(inference_client, name)] == []


@pytest.fixture
async def ask(connect: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Asks a real sidecar before no model server; what is asked is of either kind of client."""
    with running({"clip": "clip-vit-base-patch32"}) as sidecar:
        yield connect(sidecar.address)


async def test_a_real_sidecar_is_asked_the_same_way(ask: Any) -> None:
    found = await ask.call("verdict", window_s=5)
    assert (found.window_s, found.upstreams) == (5.0, ())
    assert found.fleet.image_threads > 0
    assert {lane.modality for lane in found.lanes} == {Modality.IMAGE, Modality.AUDIO}
    first, second = await watched(ask, 2)
    assert second.machine is not None or first.machine is None
    with pytest.raises(InvalidRequest, match="allowed are 0"):
        await ask.call("verdict", window_s=61)
    with pytest.raises(InvalidRequest, match=re.escape("is not watched; watched are: none yet")):
        await watched(ask, 1, "clip")
    with pytest.raises(UnknownModel):
        await ask.call("self_check", "nonsense")
