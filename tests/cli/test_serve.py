"""Signals to a running server: what it refuses, and when it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_client import Client, Retries, ShuttingDown
from tests.serving import serving


@pytest.mark.full
def test_on_sigusr1_new_calls_are_refused_and_it_stays_until_it_is_stopped(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.awaits(lambda: is_serving(server.address))
        server.send(signal.SIGUSR1)
        server.says("refusing new calls: 0 in flight")
        with Client(server.address, retries=Retries(attempts=1)) as client, pytest.raises(ShuttingDown):
            client.models()
        assert not is_serving(server.address)
        assert server.plan()["threads.probe"] == 1
        assert server.end() == 0


def is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service="multimodal.v1.Preprocessor"), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
