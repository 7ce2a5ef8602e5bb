"""Where the keys that verify signed tokens come from: a file, or an address that is asked at start and again and again.

While an address does not answer its last keys stay good, for a bounded time. A token by a key that is not known has the
address asked sooner, since signers change keys, but seldom enough that nobody can have it asked at will. The address is
the operator's own word, so it may be a private one; redirects are not followed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from sidecar.edge import http
from sidecar.edge.callers.config import JwtConfig
from sidecar.edge.callers.signed import Keys, read_keys
from sidecar.edge.fetch import url
from sidecar.edge.fetch.fetcher import resolved, trust
from sidecar.edge.watched import Watched
from sidecar.errors import FetchError, FetchFailed, SettingsError

log = logging.getLogger(__name__)

_MOST_BYTES: Final = 1024 * 1024
_PATIENCE_S: Final = 10.0
# Between two questions, whatever the reason: after one that failed, and for a key that is not known.
_LEAST_PAUSE_S: Final = 10.0


class KeySource(Protocol):
    """Keys as they are now."""

    def keys(self) -> Keys | None:
        """None while there are none to rely on."""
        ...

    def missing(self) -> None:
        """Says that a token names a key that is not there."""

    async def watch(self) -> None:
        """Keeps them fresh, until it is cancelled."""


def key_source(config: JwtConfig) -> KeySource:
    """A file's, or an address's. Raises SettingsError."""
    if "://" in config.keys:
        return KeysByAddress(config)
    return KeysByFile(Path(config.keys))


class KeysByFile:
    """Of a JWKS file, read again when it has changed. Raises SettingsError."""

    def __init__(self, file: Path) -> None:
        self._found = Watched("callers.jwt.keys", [file], lambda contents: read_keys(contents[0]))

    def keys(self) -> Keys | None:
        return self._found.value()

    def missing(self) -> None:
        """A file is looked at anyway."""

    async def watch(self) -> None:
        """As above."""


class KeysByAddress:
    """Of an address. Raises SettingsError for one that is none."""

    def __init__(
        self,
        config: JwtConfig,
        *,
        ask: Callable[[], Awaitable[bytes]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        least_pause_s: float = _LEAST_PAUSE_S,
    ) -> None:
        """`ask` gets the JWKS, in place of asking the address; it raises FetchError."""
        try:
            self._url = url.read(config.keys)
        except ValueError as error:
            raise SettingsError(
                f"`callers.jwt.keys` has an address that cannot be used: {error}",
                key="callers.jwt.keys",
                value="",
            ) from None
        self._config = config
        self._tls = trust(config.ca, "callers.jwt.ca")
        self._ask = ask or self._get
        self._clock = clock
        self._least_pause_s = least_pause_s
        self._content = b""
        self._keys: Keys | None = None
        self._renewed_s = 0.0
        self._wanted = asyncio.Event()

    def keys(self) -> Keys | None:
        if self._keys is None or self._clock() - self._renewed_s > self._config.stale_s:
            return None
        return self._keys

    def missing(self) -> None:
        self._wanted.set()

    async def watch(self) -> None:
        while True:
            renewed = await self.renew()
            self._wanted.clear()
            await asyncio.sleep(self._least_pause_s)
            if renewed:
                try:
                    async with asyncio.timeout(max(0.0, self._config.renew_s - self._least_pause_s)):
                        await self._wanted.wait()
                except TimeoutError:
                    pass  # it is time anyway

    async def renew(self) -> bool:
        """Asks once; whether that went well. What did not is told in the log, and the old keys stay."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                content = await self._ask()
                keys = read_keys(content)
        except (FetchError, ValueError, TimeoutError) as error:
            words = str(error) or f"no answer within {_PATIENCE_S:g} s"
            log.warning("the keys of `callers.jwt.keys` (%s) could not be renewed: %s", self._url.host, words)
            return False
        self._renewed_s = self._clock()
        if content != self._content:
            log.info("%s has %d keys that verify tokens", self._url.host, len(keys))
            self._content, self._keys = content, keys
        return True

    async def _get(self) -> bytes:
        where = self._url
        try:
            addresses = await resolved(where.host, where.port)
        except OSError:
            raise FetchFailed(f"{where.host} is not known to DNS", host=where.host) from None
        place = http.Place(addresses, where.port, where.host, where.target, where.scheme == "https")
        answer = await http.get(place, self._tls, _check_size, lambda _: None)
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own word for: here it is
            raise FetchFailed(f"{where.host} answers with status {answer.status}", host=where.host)
        return answer.body


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise ValueError(f"the JWKS is larger than {_MOST_BYTES} bytes")
