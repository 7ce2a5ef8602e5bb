"""Diagnostics over real channels: the verdict on a real Triton under load, watched, in metrics, and by a self-check."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from multimodal.v1 import diagnostics_pb2 as pb
from multimodal.v1 import diagnostics_pb2_grpc

import testbed.media
from inference_client import Client, InvalidRequest, SidecarError
from testbed.triton import Triton
from tests.running import Running, running

PICTURE = Path(testbed.media.__file__).parent / "text.jpg"
CLIP = "clip-vit-base-patch32"
PATIENCE_S = 30.0


@contextmanager
def stub(sidecar: Running) -> Iterator[diagnostics_pb2_grpc.DiagnosticsStub]:
    with grpc.insecure_channel(sidecar.address) as channel:
        yield diagnostics_pb2_grpc.DiagnosticsStub(channel)


@contextmanager
def load(sidecar: Running, model: str, callers: int = 4) -> Iterator[None]:
    """Callers in closed loops, until the block is left."""
    over = threading.Event()

    def call() -> None:
        with Client(sidecar.address) as client:
            while not over.is_set():
                client.infer(model, PICTURE, fresh=True)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in threads:
            each.join(PATIENCE_S)


def watched(sidecar: Running, upstream: str) -> Generator[pb.UpstreamVerdict, None, None]:
    """Verdicts on a model as they come, for a while at most."""
    with stub(sidecar) as diagnostics:
        request = pb.WatchVerdictRequest(upstream=upstream, window_s=3)
        for told in diagnostics.WatchVerdict(request, timeout=PATIENCE_S):
            (one,) = told.verdict.upstreams
            yield one


def seconds(verdict: pb.UpstreamVerdict) -> dict[str, float]:
    return {
        pb.AcceleratorState.Name(each.state).removeprefix("ACCELERATOR_STATE_"): each.seconds
        for each in verdict.states
    }


@pytest.mark.triton
class TestOnTriton:
    def test_states_add_up_to_the_window_and_causes_to_what_is_starved(self, sidecar: Running) -> None:
        with load(sidecar, "accelerator"), contextlib.closing(watched(sidecar, "accelerator")) as verdicts:
            told = next(each for each in verdicts if each.rows_per_s > 1 and seconds(each)["IDLE_DEMAND"] < 1)
        states = seconds(told)
        assert told.counted
        assert told.models == ["accelerator"]
        assert states["IDLE_PREP"] / sum(states.values()) == pytest.approx(told.starved, abs=0.01)
        assert sum(each.seconds for each in told.causes) <= states["IDLE_PREP"] + 0.001
        assert told.finding != pb.FINDING_NO_DEMAND
        assert told.ceiling_rows_per_s > told.rows_per_s / 2

    def test_a_verdict_tells_the_picture_around_it(self, sidecar: Running) -> None:
        with load(sidecar, "accelerator"), contextlib.closing(watched(sidecar, "accelerator")) as verdicts:
            next(each for each in verdicts if each.rows_per_s > 1)
            with stub(sidecar) as diagnostics:
                told = diagnostics.Verdict(pb.VerdictRequest(window_s=3))
        assert {"decode", "transform", "pack", "deliver"} <= {each.stage for each in told.stages}
        assert told.fleet.processes > 0
        assert told.machine.cores > 0
        assert told.machine.workers > 0
        assert [each.upstream for each in told.upstreams] == sorted(each.upstream for each in told.upstreams)

    def test_the_metrics_tell_the_same_as_counters(self, sidecar: Running) -> None:
        with load(sidecar, "accelerator"), contextlib.closing(watched(sidecar, "accelerator")) as verdicts:
            next(each for each in verdicts if each.rows_per_s > 1)
        with urllib.request.urlopen(
            f"http://{sidecar.app.metrics_address}/metrics", timeout=PATIENCE_S
        ) as answer:
            lines = answer.read().decode().splitlines()
        busy = 'sidecar_accelerator_state_seconds_total{state="busy",upstream="accelerator"} '
        (value,) = [float(line.removeprefix(busy)) for line in lines if line.startswith(busy)]
        assert value > 0.1
        assert any(line.startswith('sidecar_starvation_alarm{upstream="accelerator"} ') for line in lines)

    def test_a_self_check_replays_what_comes_and_tells_both_figures(self, sidecar: Running) -> None:
        with load(sidecar, "accelerator"), stub(sidecar) as diagnostics:
            found = diagnostics.SelfCheck(
                pb.SelfCheckRequest(model="accelerator", seconds=0.5), timeout=PATIENCE_S
            )
        assert found.upstream == "accelerator"
        assert found.live_rows_per_s > 1
        assert found.fed_rows_per_s > 1
        assert 0 <= found.starved_by_accounts <= 1
        assert "rows/s" in found.summary

    def test_a_self_check_of_what_nobody_asks_says_so(
        self, sidecar: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sidecar.self_check._PATIENCE_S", 0.1)
        with stub(sidecar) as diagnostics, pytest.raises(grpc.RpcError) as failed:
            diagnostics.SelfCheck(pb.SelfCheckRequest(model="failing", seconds=0.5), timeout=PATIENCE_S)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "ask while it is in use" in (failed.value.details() or "")

    def test_of_two_self_checks_at_once_one_is_told_to_come_back(self, sidecar: Running) -> None:
        request = pb.SelfCheckRequest(model="accelerator", seconds=0.5)
        with stub(sidecar) as diagnostics, load(sidecar, "accelerator"):
            both = [diagnostics.SelfCheck.future(request, timeout=PATIENCE_S) for _ in range(2)]
            codes = {each.code() for each in both}
        assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.fixture(scope="module")
def alone() -> Iterator[Running]:
    with running({"clip": CLIP}) as sidecar:
        yield sidecar


def refused(sidecar: Running, request: pb.VerdictRequest) -> str:
    with stub(sidecar) as diagnostics, pytest.raises(grpc.RpcError) as failed:
        diagnostics.Verdict(request)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(failed.value.details())


def test_without_a_model_server_there_is_a_picture_and_no_accelerator(alone: Running) -> None:
    with Client(alone.address) as client:
        assert client.verdict().upstreams == ()


def test_a_window_out_of_bounds_is_named(alone: Running) -> None:
    assert "`window_s` is 61" in refused(alone, pb.VerdictRequest(window_s=61))
    assert "`window_s`" in refused(alone, pb.VerdictRequest(window_s=float("nan")))


def test_a_model_that_is_not_watched_is_named_with_those_that_are(alone: Running) -> None:
    words = refused(alone, pb.VerdictRequest(upstream="nobody"))
    assert "'nobody' is not watched" in words


def test_a_pause_out_of_bounds_is_named(alone: Running) -> None:
    with stub(alone) as diagnostics, pytest.raises(grpc.RpcError) as failed:
        next(diagnostics.WatchVerdict(pb.WatchVerdictRequest(interval_s=-1)))
    assert "`interval_s` is -1" in (failed.value.details() or "")


def test_seconds_of_a_self_check_are_bounded(sidecar: Running) -> None:
    with Client(sidecar.address) as client, pytest.raises(InvalidRequest, match="`seconds` is 11"):
        client.self_check("accelerator", seconds=11)


def test_without_a_model_server_there_is_nothing_to_check(alone: Running) -> None:
    with Client(alone.address) as client, pytest.raises(InvalidRequest, match=r"set `triton\.address`"):
        client.self_check("clip")


def test_without_a_watcher_the_verdict_says_what_to_set() -> None:
    with running({"clip": CLIP}, None, "verdict.enabled=false") as sidecar, Client(sidecar.address) as client:
        with pytest.raises(SidecarError, match=r"set `verdict\.enabled`"):
            client.verdict()
        assert client.preprocess("clip", PICTURE, data_type="FP32").times.total_ns > 0


def test_watching_goes_on_while_the_server_drains(alone: Running) -> None:
    with Client(alone.address) as client:
        seen = client.watch()
        assert next(seen).window_s == 10
        seen.close()


@pytest.mark.triton
def test_answers_are_the_same_whether_anybody_watches_or_not(triton: Triton) -> None:
    upstream = "models.clip.upstream=checksum_fp32"
    answers = []
    for watching in ("true", "false"):
        with (
            running({"clip": CLIP}, triton.grpc_address, upstream, f"verdict.enabled={watching}") as sidecar,
            Client(sidecar.address) as client,
        ):
            answers.append(client.infer("clip", PICTURE).tensor("crc32").tolist())
    assert answers[0] == answers[1]


def test_calls_that_are_refused_are_in_the_request_log_too(caplog: pytest.LogCaptureFixture) -> None:
    with running({"clip": CLIP}, None, "log.requests=all") as sidecar:
        with caplog.at_level("INFO", "sidecar.requests"), Client(sidecar.address) as client:
            client.preprocess("clip", PICTURE, data_type="FP32")
            with pytest.raises(SidecarError):
                client.preprocess("x" * 1000, PICTURE, data_type="FP32")
            sidecar.stop()
    lines = [record.getMessage() for record in caplog.records if record.name == "sidecar.requests"]
    assert any(line.startswith("preprocess of clip: OK") for line in lines)
    (refused,) = [line for line in lines if "UNKNOWN_MODEL" in line]
    assert len(refused) < 200
