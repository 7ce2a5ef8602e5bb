"""Addresses of media as callers write them: read strictly, once, and never by two readers who might differ.

What is unusual is refused rather than understood: users and passwords, backslashes, blanks, letters beyond ASCII, names
that no host has. Pure; nothing is resolved here. Messages name the host at most: the rest of an address may be secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

_PORTS: Final[Mapping[str, int]] = {"https": 443, "http": 80}
SCHEMES: Final = tuple(_PORTS)

# Presigned addresses of object stores are some 2,000 characters; HTTP servers take 8,000.
MOST_CHARACTERS: Final = 8000
# Visible ASCII without what RFC 3986 has no place for, and without the backslash, which some readers take for a slash.
_WHOLE: Final = re.compile(r"[!#-;=?-\[\]_a-z~%]+")
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_MOST_OF_A_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class Url:
    """An address: `host` is a name in lower case, or an IP address without brackets; `target` the path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def is_usual_port(self) -> bool:
        return self.port == _PORTS[self.scheme]

    def text(self) -> str:
        """As it is written, for resolving what is relative to it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def read(text: str) -> Url:
    """An absolute http or https address. Raises ValueError, in words that do not repeat it."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, and {MOST_CHARACTERS} are allowed")
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("it is empty, or has characters that must be percent-encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("its host or port is none") from None
    if parts.scheme not in _PORTS:
        raise ValueError("it does not begin with https:// or http://")
    if "@" in parts.netloc:
        raise ValueError("it names a user: credentials are not sent anywhere")
    host = check_host(parts.hostname or "")
    if port == 0:
        raise ValueError("its port is none")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme, host, port or _PORTS[parts.scheme], target)


def joined(base: Url, location: str) -> Url:
    """Where a redirect leads. Raises ValueError."""
    if len(location) > MOST_CHARACTERS:
        raise ValueError("the address that it redirects to is too long")
    try:
        return read(urljoin(base.text(), location))
    except ValueError as error:
        raise ValueError(f"the address that it redirects to cannot be used: {error}") from None


def check_host(text: str) -> str:
    """A host's one spelling. Raises ValueError."""
    if ":" in text:
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError("its host is no IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError("its host is of this machine's own network")
        return str(address)
    host = text.lower().removesuffix(".")
    if len(host) > _MOST_OF_A_NAME or _NAME.fullmatch(host) is None:
        raise ValueError("its host is no name")
    return host
