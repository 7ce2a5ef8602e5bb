"""The forms of an address that settings may hold. Looks at text alone: resolves nothing, binds nothing."""

from __future__ import annotations

import re

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(\d{1,5})")
_UNIX = re.compile(r"unix(-abstract)?:\S+")
_LAST_PORT = 65_535


def is_host_port(text: str) -> bool:
    """Whether it is "host:port", the host a name, an IPv4 address or an IPv6 one in brackets."""
    found = _HOST_PORT.fullmatch(text)
    return found is not None and int(found[2]) <= _LAST_PORT


def is_unix(text: str) -> bool:
    """Whether it is a socket of this machine: "unix:path", absolute or not, or "unix-abstract:name"."""
    return _UNIX.fullmatch(text) is not None
