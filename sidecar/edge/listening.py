"""Binds a gRPC server to addresses: ports by TLS where there is any, sockets of this machine by their modes.

gRPC's Python binding does not tell a handler who is at the other end of a socket (`peer()` is "unix:" for everybody),
so who may connect is what the kernel checks: the right to write to the socket's file. It is made for its owner alone
and opened further only once it is there, so that there is no moment in which others could connect.
"""

from __future__ import annotations

import grp
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from sidecar.addresses import is_unix
from sidecar.errors import SettingsError

_MODE: Final = re.compile(r"[0-7]{3}")
_OWNER_ALONE: Final = 0o177


@dataclass(frozen=True, slots=True)
class Sockets:
    """The file of a "unix:" address: `mode` in octal digits, `group` by name or number, "" for the server's own."""

    mode: str = "600"
    group: str = ""

    def __post_init__(self) -> None:
        if _MODE.fullmatch(self.mode) is None:
            raise SettingsError(
                f'`server.sockets.mode` has {self.mode!r}: allowed are three octal digits in quotes, such as "660"',
                key="server.sockets.mode",
                value=self.mode,
                allowed="three octal digits",
            )
        self.gid()

    def gid(self) -> int:
        """The group's number, -1 for the server's own. Raises SettingsError."""
        if not self.group or self.group.isdigit():
            return int(self.group or -1)
        try:
            return grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise SettingsError(
                f"`server.sockets.group` has {self.group!r}, and there is no such group: give its name or number",
                key="server.sockets.group",
                value=self.group,
            ) from None


def bind(
    server: grpc.aio.Server,
    address: str,
    key: str,
    sockets: Sockets,
    credentials: grpc.ServerCredentials | None,
) -> str:
    """Binds, and gives the address that was really bound. Raises SettingsError, naming `key`."""
    try:
        if is_unix(address):
            return _bind_socket(server, address, sockets)
        port = (
            server.add_insecure_port(address)
            if credentials is None
            else server.add_secure_port(address, credentials)
        )
    except (RuntimeError, OSError) as error:
        raise SettingsError(
            f"`{key}` has {address!r}, which cannot be bound: is the port taken, does the path exist?",
            key=key,
            value=address,
        ) from error
    return f"{address.rpartition(':')[0]}:{port}"


def _bind_socket(server: grpc.aio.Server, address: str, sockets: Sockets) -> str:
    kind, _, path = address.partition(":")
    before = os.umask(_OWNER_ALONE)
    try:
        server.add_insecure_port(address)
    finally:
        os.umask(before)
    if kind == "unix":
        file = Path(path.removeprefix("//"))
        os.chown(file, -1, sockets.gid())
        file.chmod(int(sockets.mode, 8))
    return address
