"""A small HTTP/1.1 client: one GET on one connection to an address that was chosen beforehand.

It connects to the address that it is given and nowhere else, whatever the name resolves to by then: the name is only
what TLS and the Host header say. It reads no environment (no proxies), follows no redirect, decompresses nothing, keeps
no cookie and no connection. h11 reads what comes; sizes are checked as it comes, and time is the caller's to bound.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import h11

from sidecar.errors import FetchFailed, FetchUnavailable

# Bytes of a status line and headers.
_MOST_HEAD: Final = 16 * 1024
_PIECE: Final = 64 * 1024
# To one address, before the next is tried. Out of the air.
_CONNECT_S: Final = 3.0
# Interim answers (100, 103) before the one that counts.
_MOST_INTERIM: Final = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where a GET goes: `addresses` are the IP addresses that may be connected to, tried in turn; `host` is their name,
    `target` the path and query.
    """

    addresses: Sequence[str]
    port: int
    host: str
    target: str
    is_tls: bool

    @property
    def authority(self) -> str:
        """The Host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.is_tls else 80) else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: a status, where a redirect leads ("" for nowhere), and the body of a 200."""

    status: int
    location: str = ""
    body: bytes = b""


async def get(
    place: Place, tls: ssl.SSLContext, check_size: Callable[[int], None], take: Callable[[int], None]
) -> Answer:
    """One GET. `check_size` is told of the body's size, as it is announced and as it grows, `take` of each piece; both
    refuse by raising, which is raised here. Raises FetchUnavailable and FetchFailed.
    """
    reader, writer = await _connected(place, tls)
    try:
        return await _exchange(place, reader, writer, check_size, take)
    except h11.RemoteProtocolError:
        if reader.at_eof():
            raise FetchUnavailable(f"{place.host} broke off its answer", host=place.host) from None
        raise FetchFailed(f"{place.host} does not answer in HTTP/1.1", host=place.host) from None
    except OSError:
        raise FetchUnavailable(f"{place.host} broke off its answer", host=place.host) from None
    finally:
        writer.transport.abort()


async def _connected(place: Place, tls: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    secure: dict[str, Any] = {"ssl": tls, "server_hostname": place.host} if place.is_tls else {}
    for address in place.addresses:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(address, place.port, limit=_PIECE, **secure)
        except ssl.SSLCertVerificationError:
            raise FetchFailed(
                f"{place.host} shows a certificate that is not to be trusted for that name", host=place.host
            ) from None
        except OSError:  # and what is its kin: TLS's errors, and the time that is up
            continue
    raise FetchUnavailable(f"{place.host} cannot be reached", host=place.host)


async def _exchange(
    place: Place,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    check_size: Callable[[int], None],
    take: Callable[[int], None],
) -> Answer:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
    request = h11.Request(
        method="GET",
        target=place.target,
        headers=[
            ("Host", place.authority),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "multimodal-sidecar"),
            ("Connection", "close"),
        ],
    )
    writer.write(connection.send(request) + connection.send(h11.EndOfMessage()))
    await writer.drain()
    answer, pieces, size, interim = Answer(0), list[bytes](), 0, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE))
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > _MOST_INTERIM:
                raise FetchFailed(f"{place.host} gives interim answers without end", host=place.host)
        elif isinstance(event, h11.Response):
            answer = _head(place, event, check_size)
            if answer.status != 200:  # noqa: PLR2004 - HTTP's own word for: here it is
                return answer
        elif isinstance(event, h11.Data):
            size += len(event.data)
            check_size(size)
            take(len(event.data))
            pieces.append(bytes(event.data))
        else:
            return Answer(answer.status, "", b"".join(pieces))


def _head(place: Place, response: h11.Response, check_size: Callable[[int], None]) -> Answer:
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in response.headers}
    if response.status_code == 200:  # noqa: PLR2004 - as above
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchFailed(
                f"{place.host} sends its answer compressed, though it was asked not to", host=place.host
            )
        announced = headers.get("content-length", "")
        if announced.isdigit():
            check_size(int(announced))
    return Answer(response.status_code, headers.get("location", ""))
