"""Who a client is and whom it trusts: TLS from files, and a token that goes along with every call.

A token is asked for anew for each call where it comes from a function, so that one that is renewed on disk is used at
once. It never goes to another machine in the clear unless that is asked for.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

_Path: TypeAlias = "str | os.PathLike[str]"
Token: TypeAlias = str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS from PEM files, which are read when a client is made; `Tls()` trusts the authorities that gRPC knows.

    `ca`: the authorities whose certificates a sidecar may show. `certificate` and `key`: the client's own, where the
    sidecar asks for one. `server_name`: what the sidecar's certificate says, where that is not the address.
    """

    ca: _Path = ""
    certificate: _Path = ""
    key: _Path = ""
    server_name: str = ""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("Tls: `certificate` and `key` go together; found one of them")

    def credentials(self) -> grpc.ChannelCredentials:
        """In gRPC's form. Raises OSError for a file that cannot be read."""
        ca, key, certificate = (
            Path(file).read_bytes() if file else None for file in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> list[tuple[str, str]]:
        """The channel's, in gRPC's words."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def token_file(file: _Path) -> Callable[[], str]:
    """A token that is read from a file for each call: one that something else renews, as Kubernetes does."""
    path = Path(file)
    return lambda: path.read_text(encoding="utf-8").strip()


class Bearer:
    """The metadata of every call: what always goes along, and the token of now."""

    def __init__(
        self,
        always: tuple[tuple[str, str], ...],
        token: Token,
        addresses: Iterable[str],
        *,
        is_safe: bool,
    ) -> None:
        """`is_safe`: the calls are by TLS, or may go in the clear. Raises ValueError for a token that may not."""
        self._always = always
        self._token = token
        far = [address for address in addresses if not _is_near(address)]
        if token and not is_safe and far:
            raise ValueError(
                f"the token would go to {far[0]} in the clear: give `tls=Tls(...)`, or `token_in_clear=True` where "
                "something else encrypts, such as a mesh"
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For one call. Raises ValueError for a token that gRPC cannot carry, and what the token's function raises."""
        token = self._token if isinstance(self._token, str) else self._token()
        if not token:
            return self._always
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("the token is not of printable ASCII without blanks")
        return (*self._always, ("authorization", f"Bearer {token}"))


def transport(
    credentials: grpc.ChannelCredentials | None, tls: Tls | None
) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, str]]]:
    """What channels are made with: credentials, None for none, and options. Raises ValueError, OSError."""
    if tls is None:
        return credentials, []
    if credentials is not None:
        raise ValueError("give either `tls` or `credentials`")
    return tls.credentials(), tls.options()


def _is_near(address: str) -> bool:
    """Whether an address is on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
