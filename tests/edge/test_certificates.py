"""TLS over real ports: certificates that are renewed on disk, and callers who must show theirs."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_client import Tls
from sidecar.edge.certificates import TlsConfig, server_credentials
from sidecar.edge.health import Health
from sidecar.edge.listening import Sockets, bind
from sidecar.errors import SettingsError
from tests.edge.callers.authority import Authority

PATIENCE_S = 20.0
HERE = "127.0.0.1"


@asynccontextmanager
async def serving(config: TlsConfig) -> AsyncIterator[str]:
    server = grpc.aio.server()
    health = Health()
    health.set("", serving=True)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    address = bind(server, f"{HERE}:0", "server.listen", Sockets(), server_credentials(config))
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def check(channel: grpc.aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)).status)


def shown(address: str, authority: Authority) -> str:
    """The common name of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secure:
            certificate = secure.getpeercert()
    assert certificate is not None
    subject: Any = certificate["subject"]
    return str(subject[0][0][1])


async def becomes(address: str, authority: Authority, name: str) -> None:
    ends = time.monotonic() + PATIENCE_S
    while await asyncio.to_thread(shown, address, authority) != name:
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)


def config(folder: Path, authority: Authority, name: str = "first") -> TlsConfig:
    certificate, key = authority.files(folder, "server", dns=["localhost"], ips=[HERE])
    certificate.write_bytes(authority.pair(name)[0])  # replaced at once by a pair
    pair(folder, authority, name)
    return TlsConfig(str(certificate), str(key))


def pair(folder: Path, authority: Authority, name: str) -> None:
    certificate, key = authority.pair(name, dns=["localhost"], ips=[HERE])
    (folder / "server.crt").write_bytes(certificate)
    (folder / "server.key").write_bytes(key)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_open_ones_stay(tmp_path: Path) -> None:
    authority = Authority()
    async with serving(config(tmp_path, authority)) as address:
        trust = Tls(ca=authority.file(tmp_path)).credentials()
        async with grpc.aio.secure_channel(address, trust) as channel:
            assert await check(channel) == 1
            assert await asyncio.to_thread(shown, address, authority) == "first"
            pair(tmp_path, authority, "second")
            await becomes(address, authority, "second")
            assert await check(channel) == 1


async def test_half_of_a_renewal_changes_nothing_until_the_other_half_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    async with serving(config(tmp_path, authority)) as address:
        certificate, key = authority.pair("second", dns=["localhost"], ips=[HERE])
        (tmp_path / "server.crt").write_bytes(certificate)
        ends = time.monotonic() + PATIENCE_S
        while not caplog.records:
            assert await asyncio.to_thread(shown, address, authority) == "first"
            assert time.monotonic() < ends
        (tmp_path / "server.key").write_bytes(key)
        await becomes(address, authority, "second")
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told
    assert "no pair" in told[0].getMessage()
    assert "PRIVATE" not in caplog.text


async def test_callers_without_a_certificate_of_the_authority_do_not_come_in(tmp_path: Path) -> None:
    authority, other = Authority(), Authority("other authority")
    plain = config(tmp_path, authority)
    ca = authority.file(tmp_path)
    wanted = TlsConfig(plain.certificate, plain.key, str(ca))
    (tmp_path / "other").mkdir()
    async with serving(wanted) as address:
        good = Tls(ca, *authority.files(tmp_path, "agent"))
        async with grpc.aio.secure_channel(address, good.credentials()) as channel:
            assert await check(channel) == 1
        for bad in (Tls(ca), Tls(ca, *other.files(tmp_path / "other", "agent"))):
            async with grpc.aio.secure_channel(address, bad.credentials()) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await check(channel)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_plain_caller_is_not_answered(tmp_path: Path) -> None:
    async with (
        serving(config(tmp_path, Authority())) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("what", ["missing", "no pair", "no PEM", "no authority"])
def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path, what: str) -> None:
    authority = Authority()
    certificate, key = authority.files(tmp_path, "server")
    ca = authority.file(tmp_path)
    match what:
        case "missing":
            key.unlink()
        case "no pair":
            key.write_bytes(authority.pair("other")[1])
        case "no PEM":
            certificate.write_bytes(b"none")
        case _:
            ca.write_bytes(b"none")
    with pytest.raises(SettingsError, match=r"tls\.certificate") as refused:
        server_credentials(TlsConfig(str(certificate), str(key), str(ca)))
    assert "PRIVATE" not in refused.value.message


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"certificate": "a"}, "tls.certificate"),
        ({"key": "a"}, "tls.key"),
        ({"client_ca": "a"}, "tls.client_ca"),
        ({"certificate": "a", "key": "b", "names": ("c",)}, "tls.names"),
    ],
)
def test_settings_that_are_nothing_by_themselves_are_told(given: dict[str, str], key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        TlsConfig(**given)  # type: ignore[arg-type]  # names are a tuple
    assert refused.value.facts["key"] == key
