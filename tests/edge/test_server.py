"""The server as an operator meets it: start, health, drain, and a model server that comes and goes."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

import inference_client
from inference_client import AsyncClient, Client, Retries
from sidecar.edge.server import SERVICE
from sidecar.errors import ModelMismatch, SettingsError
from testbed.sidecar import sidecar_process
from testbed.triton import Triton
from tests.running import CHECKPOINTS, Running, running

CLIP = {"clip": "clip-vit-base-patch32"}
TO_CHECKSUM = "models.clip.upstream=checksum_fp32"
NOBODY = "127.0.0.1:9"  # the discard port: nothing listens there


def picture(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def health(address: str, service: str = SERVICE) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status)


class TestStart:
    def test_a_server_without_a_model_server_prepares_and_says_so(self) -> None:
        with running(CLIP) as sidecar, Client(sidecar.address) as client:
            assert health(sidecar.address) == health_pb2.HealthCheckResponse.SERVING
            assert client.preprocess("clip", picture()).tensor().dtype == np.float32
            with pytest.raises(inference_client.InvalidRequest, match=r"triton\.address"):
                client.infer("clip", picture())

    def test_a_unix_socket_serves_like_a_port(self, tmp_path: Path) -> None:
        listen = f"server.listen=['unix:{tmp_path}/s.sock','127.0.0.1:0']"
        with running(CLIP, None, listen) as sidecar:
            for address in sidecar.app.addresses:
                with Client(address) as client:
                    assert client.preprocess("clip", picture()).tensor().shape == (3, 224, 224)

    def test_reflection_names_the_services(self) -> None:
        with running() as sidecar, grpc.insecure_channel(sidecar.address) as channel:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([request])
            )
            assert SERVICE in {service.name for service in answer.list_services_response.service}

    def test_reflection_can_be_closed(self) -> None:
        with running(None, None, "server.reflection=false") as sidecar:
            with grpc.insecure_channel(sidecar.address) as channel, pytest.raises(grpc.RpcError) as refused:
                request = reflection_pb2.ServerReflectionRequest(list_services="")
                list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request])))
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_a_port_that_is_taken_is_named(self) -> None:
        with (
            running() as first,
            pytest.raises(SettingsError, match=first.address),
            running(None, None, f"server.listen=['{first.address}']"),
        ):
            pass

    def test_metrics_on_a_taken_port_are_named(self) -> None:
        with running() as first:
            taken = first.app.metrics_address
            with pytest.raises(SettingsError, match=taken), running(None, None, f"metrics.listen={taken}"):
                pass

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--set", "limits.itmes=3"], "did you mean `items`"),
            (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
            (["--set", "models.x.recipe=nowhere"], "nowhere"),
        ],
    )
    def test_wrong_settings_end_the_start_with_one_line(self, flags: list[str], words: str) -> None:
        command = [sys.executable, "-m", "sidecar", "serve", *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_settings_can_be_checked_without_serving(self) -> None:
        flags = ["--check", "--set", f"models.clip.recipe={CHECKPOINTS / CLIP['clip']}"]
        command = [sys.executable, "-m", "sidecar", "serve", *flags]
        assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


class TestDrain:
    @pytest.mark.triton
    async def test_sigterm_finishes_what_was_accepted_and_refuses_what_is_new(self, triton: Triton) -> None:
        settings = {
            "triton": triton.grpc_address,
            "models.streamer.recipe": str(CHECKPOINTS / CLIP["clip"]),
        }
        with sidecar_process(settings) as sidecar:
            async with AsyncClient(sidecar.address, retries=Retries(attempts=1)) as client:
                inputs = {"count": 20, "delay_ms": 25}
                async with client.infer_stream("streamer", picture(), inputs) as stream:
                    tokens: list[str] = []
                    async for outputs in stream:
                        if not tokens:
                            sidecar.process.send_signal(signal.SIGTERM)
                            await not_serving(sidecar.address)
                            with pytest.raises(inference_client.ShuttingDown):
                                await client.preprocess("streamer", picture())
                        tokens.append(outputs.text("token"))
                assert len(tokens) == 20
            assert await asyncio.to_thread(sidecar.process.wait, 30) == 0

    def test_new_calls_can_be_refused_while_it_stays(self) -> None:
        async def refuse() -> None:
            sidecar.app.refuse()

        with running(CLIP) as sidecar, Client(sidecar.address, retries=Retries(attempts=1)) as client:
            client.preprocess("clip", picture())
            sidecar.do(refuse())
            with pytest.raises(inference_client.ShuttingDown):
                client.preprocess("clip", picture())
            assert client.thread_plan().numbers
            with grpc.insecure_channel(sidecar.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                told = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10).status
                assert told == health_pb2.HealthCheckResponse.NOT_SERVING
                assert (
                    health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
                    == health_pb2.HealthCheckResponse.SERVING
                )
        assert sidecar.app.finished_drain

    async def test_a_large_reply_to_a_slow_reader_is_finished_before_the_server_goes(self) -> None:
        with running(CLIP) as sidecar:
            before = finished(sidecar)
            async with slowly(sidecar.address) as address, AsyncClient(address) as client:
                reply = asyncio.create_task(client.preprocess("clip", [picture()] * 64))
                # So that their reply is on its way.
                while await asyncio.to_thread(finished, sidecar) < before + 64:  # noqa: ASYNC110 - metrics are looked at
                    await asyncio.sleep(0.01)
                stopping = asyncio.create_task(asyncio.to_thread(sidecar.stop))
                assert len(await reply) == 64
                await stopping
            assert sidecar.app.finished_drain

    @pytest.mark.triton
    async def test_a_drain_that_takes_too_long_is_cut_and_told(self, triton: Triton) -> None:
        settings = {
            "triton": triton.grpc_address,
            "models.streamer.recipe": str(CHECKPOINTS / CLIP["clip"]),
            "server.drain_s": "0.2",
        }
        with sidecar_process(settings) as sidecar:
            async with AsyncClient(sidecar.address, retries=Retries(attempts=1)) as client:
                inputs = {"count": 2000, "delay_ms": 20}
                with pytest.raises(inference_client.SidecarError):
                    async with client.infer_stream("streamer", picture(), inputs) as stream:
                        async for outputs in stream:
                            if outputs.index == 0:
                                sidecar.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(sidecar.process.wait, 30) == 1


@asynccontextmanager
async def slowly(address: str) -> AsyncIterator[str]:
    """A relay in front of an address that hands its answers on at some 10 MB a second."""
    host, _, port = address.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause_s: float) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
        finally:
            writer.close()
            await writer.wait_closed()

    ended: list[asyncio.Task[None]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, outward = await asyncio.open_connection(host, int(port))
        ended.append(asyncio.create_task(pump(reader, outward, 0.0)))
        ended.append(asyncio.create_task(pump(onward, writer, 65536 / 10e6)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*ended, return_exceptions=True)


def finished(sidecar: Running) -> float:
    """Pictures that workers have done; calibration's are among them."""
    name = 'sidecar_workers_finished_jobs_total{modality="image"} '
    (line,) = (line for line in scrape(sidecar).splitlines() if line.startswith(name))
    return float(line.removeprefix(name))


async def not_serving(address: str) -> None:
    """Returns when health says that the server is going away."""
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        async for state in watch:
            if state.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


class TestModelServer:
    def test_one_that_is_down_at_start_is_waited_for_in_the_open(self) -> None:
        with running(CLIP, NOBODY) as sidecar, Client(sidecar.address, retries=Retries(attempts=1)) as client:
            assert health(sidecar.address, "") == health_pb2.HealthCheckResponse.SERVING
            assert health(sidecar.address) == health_pb2.HealthCheckResponse.NOT_SERVING
            assert client.model("clip").state == "unreachable"
            with pytest.raises(inference_client.UpstreamUnavailable) as refused:
                client.infer("clip", picture())
            assert refused.value.retryable
            with pytest.raises(inference_client.UpstreamUnavailable):
                client.preprocess("clip", picture())
            assert client.preprocess("clip", picture(), data_type="FP16").tensor().dtype == np.float16

    @pytest.mark.triton
    def test_a_model_that_contradicts_its_recipe_stops_the_start_and_names_both_sides(
        self, triton: Triton
    ) -> None:
        with (
            pytest.raises(ModelMismatch) as mismatch,
            running({"clip": "clip-vit-large-patch14-336"}, triton.grpc_address, TO_CHECKSUM),
        ):
            pass
        assert "FP32 [3, 336, 336]" in mismatch.value.message
        assert "FP32 [3, 224, 224]" in mismatch.value.message
        assert "'checksum_fp32'" in mismatch.value.message

    @pytest.mark.triton
    def test_a_model_that_is_not_there_is_waited_for_and_told(self, triton: Triton) -> None:
        with running(CLIP, triton.grpc_address) as sidecar, Client(sidecar.address) as client:
            assert health(sidecar.address) == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(inference_client.UpstreamModelMissing, match="clip"):
                client.infer("clip", picture())
            assert client.model("clip").state == "missing"

    @pytest.mark.triton
    def test_one_that_dies_mid_request_and_comes_back_is_told_and_found_again(
        self, own_triton: Triton
    ) -> None:
        with (
            running(
                {"slow": CLIP["clip"]}, own_triton.grpc_address, "models.slow.upstream=streamer"
            ) as sidecar,
            Client(sidecar.address, retries=Retries(attempts=1)) as client,
        ):
            inputs = {"count": 1000, "delay_ms": 20}
            with pytest.raises(inference_client.UpstreamUnavailable) as died:
                with client.infer_stream("slow", picture(), inputs) as stream:
                    for outputs in stream:
                        if outputs.index == 0:
                            own_triton.kill()
            assert died.value.retryable
            assert client.preprocess("slow", picture(), data_type="FP32").tensor().shape == (3, 224, 224)
            own_triton.restart()
            with Client(sidecar.address, retries=Retries(attempts=5)) as patient:
                assert eventually_streams(patient) == ["token 0 of 1"]


def eventually_streams(client: Client) -> list[str]:
    """Asks until the model is found again, as an agent with patience does; bounded by the test's timeout."""
    while True:
        try:
            with client.infer_stream("slow", picture(), {"count": 1}) as stream:
                return [outputs.text("token") for outputs in stream]
        except inference_client.UpstreamUnavailable:
            continue


class TestMetrics:
    def test_stage_times_are_histograms_by_stage_modality_and_model(self) -> None:
        with running(CLIP) as sidecar, Client(sidecar.address) as client:
            before = finished(sidecar)
            client.preprocess("clip", [picture(), b"nothing"])
            assert finished(sidecar) == before + 1
            text = scrape(sidecar)
        for stage in ("decode", "transform", "pack"):
            labels = f'modality="image",model="clip",stage="{stage}"'
            assert f"sidecar_stage_duration_seconds_count{{{labels}}} 1.0" in text
        assert 'sidecar_items_total{modality="image",model="clip",reason="OK"} 1.0' in text
        assert 'sidecar_items_total{modality="image",model="clip",reason="UNSUPPORTED_MEDIA"} 1.0' in text
        assert 'sidecar_gap_duration_seconds_count{model="clip"} 1.0' in text
        assert 'sidecar_calls_total{method="Preprocess",reason="OK"} 1.0' in text
        assert 'sidecar_gate_queued_items{modality="image"} 0.0' in text

    def test_a_call_that_fails_leaves_its_items_and_their_cost_in_the_metrics(self) -> None:
        with running(CLIP) as sidecar, Client(sidecar.address) as client:
            with pytest.raises(inference_client.CorruptMedia):
                client.preprocess("clip", picture(400)[:-2000])
            text = scrape(sidecar)
        assert 'sidecar_items_total{modality="image",model="clip",reason="CORRUPT_MEDIA"} 1.0' in text
        (cpu,) = (line for line in text.splitlines() if line.startswith("sidecar_worker_cpu_seconds_total{"))
        assert float(cpu.split()[-1]) > 0

    def test_refused_calls_are_counted_by_reason(self) -> None:
        with running(CLIP) as sidecar, Client(sidecar.address) as client:
            with pytest.raises(inference_client.UnknownModel):
                client.preprocess("clop", picture())
            assert 'sidecar_calls_total{method="Preprocess",reason="UNKNOWN_MODEL"} 1.0' in scrape(sidecar)

    def test_readiness_models_and_calls_under_way_are_told(self) -> None:
        with running(CLIP) as sidecar:
            text = scrape(sidecar)
        assert 'sidecar_model_ready{model="clip",upstream="clip"} 1.0' in text
        for line in ("sidecar_ready 1.0", "sidecar_draining 0.0", "sidecar_calls_under_way 0.0"):
            assert line in text.splitlines()

    def test_a_model_server_that_is_not_there_leaves_its_models_not_ready(self) -> None:
        with running(CLIP, "127.0.0.1:1") as sidecar:
            text = scrape(sidecar)
        assert 'sidecar_model_ready{model="clip",upstream="clip"} 0.0' in text
        assert "sidecar_ready 0.0" in text.splitlines()


def scrape(sidecar: Running) -> str:
    with urllib.request.urlopen(f"http://{sidecar.app.metrics_address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
