"""Fetches media by its address: checked, resolved once, connected to what was checked, and checked anew after every
redirect.

A name is resolved once a hop, every address that it has must be one that may be connected to, and the connection goes
to one of those very addresses: a name that resolves to another one a moment later changes nothing. No credentials go
along. It holds no worker and no place in the gate's queue; what it has read counts against the uploads' room. What
comes is media like any other: probe says what it is, whatever its server says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal

from annotated_types import Ge, Gt

from sidecar.deadline import Deadline
from sidecar.edge import http
from sidecar.edge.fetch import url
from sidecar.edge.fetch.networks import Network, why_not
from sidecar.edge.fetch.slots import Slots
from sidecar.edge.fetch.url import Url
from sidecar.edge.receive import Link, UploadRoom
from sidecar.errors import (
    DeadlineExceeded,
    FetchFailed,
    FetchRefused,
    FetchUnavailable,
    InvalidRequest,
    MediaTooLarge,
    SettingsError,
)
from sidecar.media import Source
from sidecar.stages.admit.limits import Limits
from sidecar.walk import Received, side_by_side

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A host's name and a port to its IP addresses. Raises OSError."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Statuses that say: not now.
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# Addresses of one name that are tried; out of the air.
_MOST_TRIED: Final = 3


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """`hosts`: names that media may be fetched from, "*.example.com" for all below one, "*" for every public one;
    empty, the default, fetches nothing. `schemes`: https, and http where it is listed. `ports`: those besides the
    schemes' own. `allow_networks`: networks that may be connected to though they are not public: a private
    cluster's, or a test's. `bytes`: of one item. `timeout_s`: for one item, redirects and all. `redirects`: how
    many are followed. `concurrent`: fetches at once; `queued`: how many may wait. `ca`: a PEM file of authorities;
    empty for the system's.
    """

    hosts: tuple[str, ...] = ()
    schemes: tuple[Literal["https", "http"], ...] = ("https",)
    ports: tuple[Annotated[int, Gt(0)], ...] = ()
    allow_networks: tuple[str, ...] = ()
    bytes: Annotated[int, Ge(1)] = 64 * 1024 * 1024
    timeout_s: Annotated[float, Gt(0)] = 10.0
    redirects: Annotated[int, Ge(0)] = 3
    concurrent: Annotated[int, Ge(1)] = 16
    queued: Annotated[int, Ge(0)] = 128
    ca: str = ""

    def __post_init__(self) -> None:
        for host in self.hosts:
            name = host.removeprefix("*.") if host != "*" else "any"
            try:
                is_name = url.check_host(name) == name
            except ValueError:
                is_name = False
            if not is_name:
                allowed = 'names in lower case, IP addresses, "*.example.com" and "*"'
                raise SettingsError(
                    f"`fetch.hosts` has {host!r}: allowed are {allowed}",
                    key="fetch.hosts",
                    value=host,
                    allowed=allowed,
                )
        networks(self)


def networks(config: FetchConfig) -> Sequence[Network]:
    """`allow_networks`, read. Raises SettingsError."""
    found: list[Network] = []
    for text in config.allow_networks:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise SettingsError(
                f"`fetch.allow_networks` has {text!r}: allowed are networks such as 10.1.0.0/16 ({error})",
                key="fetch.allow_networks",
                value=text,
                allowed="networks such as 10.1.0.0/16",
            ) from None
    return found


async def resolved(host: str, port: int) -> Sequence[str]:
    """By the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def trust(ca: str, key: str) -> ssl.SSLContext:
    """Whom servers' certificates are to be from. Raises SettingsError, naming `key`."""
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"`{key}` has {ca!r}, which cannot be read: {error.strerror or 'it is no certificate in PEM'}",
            key=key,
            value=ca,
        ) from None


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item that is to be fetched: its limits, and who counts the bytes that come."""

    link: Link
    limits: Limits
    take: Callable[[int], None]


class Fetcher:
    """Fetches media. Lives on one event loop."""

    def __init__(self, config: FetchConfig, room: UploadRoom, resolve: Resolve = resolved) -> None:
        """`room` is what uploads under way may hold together. Raises SettingsError."""
        self._config = config
        self._room = room
        self._resolve = resolve
        self._networks = networks(config)
        self._slots = Slots(config.concurrent, config.queued)
        self._tls = trust(config.ca, "fetch.ca") if config.hosts else None

    async def fetch_all(
        self, received: Sequence[Received | Link], limits: Limits, tenant: str, deadline: Deadline
    ) -> list[Received]:
        """Items with what their addresses lead to in their places: bytes, or the item's own problem.

        `limits` are the model's. Raises Overloaded and DeadlineExceeded, which are the call's.
        """
        if not any(isinstance(each, Link) for each in received):
            return [each for each in received if not isinstance(each, Link)]
        found: list[Received | None] = [None if isinstance(each, Link) else each for each in received]
        held = 0

        def take(count: int) -> None:
            nonlocal held
            self._room.take(count)
            held += count
            if held > limits.upload_bytes:
                raise MediaTooLarge(
                    f"the media that is fetched for one request passes the limit `limits.upload_bytes` "
                    f"{limits.upload_bytes}: send several requests, or raise the limit",
                    limit="limits.upload_bytes",
                    allowed=limits.upload_bytes,
                    found=held,
                )

        async def fill(place: int, link: Link) -> None:
            found[place] = await self._fetch(_Asked(link, limits, take), tenant)

        works = [fill(place, each) for place, each in enumerate(received) if isinstance(each, Link)]
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await side_by_side(works)
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline passed while media was fetched: allow more time, or send the bytes",
                stage="receive",
            ) from None
        finally:
            self._room.give_back(held)
        return [each for each in found if each is not None]

    async def _fetch(self, asked: _Asked, tenant: str) -> Received:
        """One item, or its own problem."""
        link = asked.link
        try:
            where = self._first(link)
            async with self._slots.slot(tenant):
                return Source(await self._within(asked, where), link.content_type, link.label)
        except (FetchRefused, FetchFailed, FetchUnavailable) as problem:
            return problem.of(link.label).bare()
        except (InvalidRequest, MediaTooLarge) as problem:
            return problem.bare()

    def _first(self, link: Link) -> Url:
        if not self._config.hosts:
            raise FetchRefused("nothing is fetched by this server: send the bytes, or have `fetch.hosts` set")
        try:
            where = url.read(link.uri)
        except ValueError as error:
            raise InvalidRequest(
                f"{link.label} has a `uri` that cannot be used: {error}", field=link.field
            ) from None
        self._check(where)  # before it waits for a turn
        return where

    async def _within(self, asked: _Asked, where: Url) -> bytes:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await self._follow(asked, where)
        except TimeoutError:
            raise FetchUnavailable(
                f"{where.host} took longer than `fetch.timeout_s` {self._config.timeout_s:g} s",
                host=where.host,
            ) from None

    async def _follow(self, asked: _Asked, where: Url) -> bytes:
        for _ in range(self._config.redirects + 1):
            answer = await self._ask(asked, where)
            if answer.status in _REDIRECTS and answer.location:
                where = self._next(where, answer.location)
                continue
            if answer.status in _BUSY:
                raise FetchUnavailable(
                    f"{where.host} answers with status {answer.status}", host=where.host, status=answer.status
                )
            if answer.status != 200:  # noqa: PLR2004 - HTTP's own word for: here it is
                raise FetchFailed(
                    f"{where.host} answers with status {answer.status}", host=where.host, status=answer.status
                )
            return answer.body
        raise FetchFailed(
            f"{where.host} redirects again, and `fetch.redirects` is {self._config.redirects}",
            host=where.host,
        )

    def _next(self, where: Url, location: str) -> Url:
        try:
            leads = url.joined(where, location)
        except ValueError as error:
            raise FetchFailed(f"{where.host} redirects, and {error}", host=where.host) from None
        if where.scheme == "https" and leads.scheme != "https":
            raise FetchRefused(f"{where.host} redirects from https to http", host=where.host)
        return leads

    async def _ask(self, asked: _Asked, where: Url) -> http.Answer:
        """One hop, checked from its name to its address."""
        self._check(where)
        assert self._tls is not None  # noqa: S101 - made where any host is allowed
        addresses = await self._addresses(where)
        place = http.Place(addresses, where.port, where.host, where.target, where.scheme == "https")
        return await http.get(place, self._tls, partial(self._check_size, asked), asked.take)

    def _check(self, where: Url) -> None:
        config = self._config
        if where.scheme not in config.schemes:
            raise FetchRefused(
                f"{where.host} is to be asked by {where.scheme}, and `fetch.schemes` has {', '.join(config.schemes)}",
                host=where.host,
            )
        if not any(_matches(where.host, pattern) for pattern in config.hosts):
            raise FetchRefused(f"{where.host} is not one of `fetch.hosts`", host=where.host)
        if not where.is_usual_port and where.port not in config.ports:
            raise FetchRefused(f"port {where.port} is not one of `fetch.ports`", host=where.host)

    async def _addresses(self, where: Url) -> Sequence[str]:
        """Those that a name has now, every one of them to be connected to. Raises FetchRefused."""
        try:
            found = await self._resolve(where.host, where.port)
        except (OSError, UnicodeError):
            raise FetchUnavailable(f"{where.host} is not known to DNS", host=where.host) from None
        if not found:
            raise FetchUnavailable(f"{where.host} is not known to DNS", host=where.host)
        for address in found:
            if why := why_not(address, self._networks):
                # Which address it is stays untold: who may not reach a network is not shown its map.
                raise FetchRefused(
                    f"{where.host} leads to an address that {why}: it must be public, or in `fetch.allow_networks`",
                    host=where.host,
                )
        return found[:_MOST_TRIED]

    def _check_size(self, asked: _Asked, size: int) -> None:
        link = asked.link
        asked.limits.check_size(size, link.label)
        if size > self._config.bytes:
            raise MediaTooLarge(
                f"{link.label} has {size} bytes or more, and the limit `fetch.bytes` is {self._config.bytes}: send the "
                "bytes, or raise the limit",
                limit="fetch.bytes",
                allowed=self._config.bytes,
                found=size,
            )


def _matches(host: str, pattern: str) -> bool:
    return pattern in {"*", host} or (pattern.startswith("*.") and host.endswith(pattern[1:]))
