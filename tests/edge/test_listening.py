"""Sockets of this machine: who may connect is what the kernel says of their files, from the first moment on."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from sidecar.edge.listening import Sockets, bind
from sidecar.errors import SettingsError

# Becomes another user once it has started: the interpreter may lie where that one cannot read.
_TRY = """
import os, socket, sys
path, uid, gid = sys.argv[1], *map(int, sys.argv[2:])
client = socket.socket(socket.AF_UNIX)
os.setgroups([]), os.setgid(gid), os.setuid(uid)
client.connect(path)
"""
NOBODY = 65_534


def connects(file: Path, uid: int, gid: int) -> bool:
    """Whether a process of another user can connect."""
    command = [sys.executable, "-S", "-c", _TRY, str(file), str(uid), str(gid)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert not done.returncode or b"PermissionError" in done.stderr, done.stderr
    return not done.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that all may enter, up to the root."""
    for each in (tmp_path, *tmp_path.parents[:-2]):
        each.chmod(each.stat().st_mode | 0o111)
    return tmp_path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize(
    ("mode", "group", "others", "members"),
    [("600", "", False, False), ("660", "4242", False, True), ("666", "", True, True)],
)
async def test_others_connect_only_where_mode_and_group_let_them(
    folder: Path, mode: str, group: str, others: bool, members: bool
) -> None:
    file, server = folder / "s.sock", grpc.aio.server()
    bind(server, f"unix:{file}", "server.listen", Sockets(mode, group), None)
    await server.start()
    try:
        assert stat.S_IMODE(file.stat().st_mode) == int(mode, 8)
        assert connects(file, 0, 0)
        assert connects(file, NOBODY, NOBODY) is others
        assert connects(file, NOBODY, 4242) is members
    finally:
        await server.stop(0)


async def test_a_socket_is_its_owners_alone_until_it_is_opened_further(tmp_path: Path) -> None:
    """What the kernel is told when it is bound: before that nobody can connect, and after that the mode is set."""
    file, seen = tmp_path / "s.sock", list[int]()
    server = grpc.aio.server()

    class Seeing:
        def add_insecure_port(self, address: str) -> int:
            before = os.umask(0o777)
            os.umask(before)
            seen.append(before)
            return server.add_insecure_port(address)

    bind(Seeing(), f"unix:{file}", "server.listen", Sockets("666"), None)  # type: ignore[arg-type]  # all that is asked
    assert seen == [0o177]
    assert stat.S_IMODE(file.stat().st_mode) == 0o666
    await server.stop(0)


async def test_a_path_that_cannot_be_is_told(tmp_path: Path) -> None:
    server = grpc.aio.server()
    with pytest.raises(SettingsError, match=r"server\.listen"):
        bind(server, f"unix:{tmp_path}/none/s.sock", "server.listen", Sockets(), None)
    await server.stop(0)


@pytest.mark.parametrize("mode", ["", "rw", "0660", "888", "66"])
def test_a_mode_that_is_none_is_told(mode: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.sockets\.mode"):
        Sockets(mode)


def test_a_group_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError, match=r"server\.sockets\.group"):
        Sockets(group="no such group")


async def test_grpc_tells_nobody_who_is_at_the_other_end_of_a_socket(tmp_path: Path) -> None:
    """The reason for all this; where it fails, peers' user ids can be asked for instead."""
    peers: list[str] = []

    async def handle(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        peers.append(f"{context.peer()} {sorted(context.auth_context())}")
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("S", {"M": grpc.unary_unary_rpc_method_handler(handle)}),)
    )
    address = bind(server, f"unix:{tmp_path}/s.sock", "server.listen", Sockets(), None)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary("/S/M")(b"")  # type: ignore[arg-type]  # the stub knows no bytes
    await server.stop(0)
    assert peers == ["unix: ['security_level', 'transport_security_type']"]
    assert socket.SO_PEERCRED  # the kernel would tell
