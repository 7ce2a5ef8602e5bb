"""Keys by address: renewed in the background, kept while the address is silent, for so long and no longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from sidecar.edge.callers.config import JwtConfig
from sidecar.edge.callers.key_set import KeysByAddress, KeysByFile, key_source
from sidecar.errors import FetchUnavailable, SettingsError
from tests.edge.callers.test_signed import EC, KEYS, RSA, jwks, public

PATIENCE_S = 10.0
FIRST, SECOND = jwks(public(EC, "ec", ECAlgorithm)), jwks(public(RSA, "rsa", RSAAlgorithm))


def config(keys: str = "https://issuer.test/keys", **given: float) -> JwtConfig:
    return JwtConfig(keys=keys, issuer="i", audience="a", **given)  # type: ignore[arg-type]  # numbers only


def answering(*answers: bytes | Exception) -> Callable[[], Awaitable[bytes]]:
    """One answer after the other, the last for ever."""
    rest = list(answers)

    async def ask() -> bytes:
        answer = rest.pop(0) if len(rest) > 1 else rest[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


async def test_until_the_address_has_answered_there_are_none(caplog: pytest.LogCaptureFixture) -> None:
    keys = KeysByAddress(config(), ask=answering(FetchUnavailable("away"), b"nonsense", FIRST))
    assert keys.keys() is None
    assert [await keys.renew() for _ in range(3)] == [False, False, True]
    found = keys.keys()
    assert found is not None
    assert set(found) == {"ec"}
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [
        logging.WARNING
    ] * 2


async def test_the_same_keys_stay_the_same_object_and_others_take_their_place() -> None:
    keys = KeysByAddress(config(), ask=answering(FIRST, FIRST, SECOND))
    await keys.renew()
    first = keys.keys()
    await keys.renew()
    assert keys.keys() is first
    await keys.renew()
    second = keys.keys()
    assert second is not None
    assert set(second) == {"rsa"}


async def test_old_keys_are_good_while_the_address_is_silent_until_they_are_stale() -> None:
    now = [0.0]
    ask = answering(FIRST, FetchUnavailable("away"))
    keys = KeysByAddress(config(stale_s=100.0), ask=ask, clock=lambda: now[0])
    await keys.renew()
    now[0] = 99.0
    assert not await keys.renew()
    assert keys.keys()
    now[0] = 101.0
    assert keys.keys() is None


async def test_a_key_that_is_missing_has_the_address_asked_before_its_time() -> None:
    keys = KeysByAddress(config(renew_s=3600.0), ask=answering(FIRST, SECOND), least_pause_s=0.01)
    watching = asyncio.create_task(keys.watch())
    async with asyncio.timeout(PATIENCE_S):
        while "ec" not in (keys.keys() or {}):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        while "rsa" not in (keys.keys() or {}):
            keys.missing()
            await asyncio.sleep(0.001)
    watching.cancel()


async def test_they_are_got_over_http_from_where_the_operator_says() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(KEYS), KEYS))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    keys = KeysByAddress(config(f"http://localhost:{port}/keys"))
    assert await keys.renew()
    assert set(keys.keys() or {}) == {"rsa", "ec", "ed"}
    server.close()
    await server.wait_closed()
    assert not await keys.renew()


def test_a_file_is_told_from_an_address(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(KEYS)
    found = key_source(config(str(file)))
    assert isinstance(found, KeysByFile)
    assert set(found.keys() or {}) == {"rsa", "ec", "ed"}


@pytest.mark.parametrize("address", ["ftp://a/", "https://user:s3cr3t@issuer.test/"])
def test_an_address_that_is_none_is_told_without_it(address: str) -> None:
    with pytest.raises(SettingsError, match=r"callers\.jwt\.keys") as refused:
        key_source(config(address))
    assert "s3cr3t" not in refused.value.message
