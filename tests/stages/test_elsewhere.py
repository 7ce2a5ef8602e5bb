"""Whatever a file refers to, nothing but its own bytes is looked at: no other file, and no address.

Both are watched for real: a folder by the kernel's own inotify, which tells of every opening by whatever code, and a
server on loopback that counts who connects.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.errors import MediaError
from sidecar.media import DecodeTarget, Source
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from testbed.hostile.bombs import playlists, references
from tests import corpus

_OPENED, _READ = 0x20, 0x1


@dataclass(frozen=True)
class Canary:
    """A sound that lies in a watched folder, and an address that somebody listens at."""

    file: Path
    server: socket.socket
    watch: int

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.server.getsockname()[1]}/canary.wav"

    def touched(self) -> list[str]:
        """What has been opened, read or connected to since this was asked last."""
        found = []
        with contextlib.suppress(BlockingIOError):
            events = os.read(self.watch, 65_536)
            while events:
                _, mask, _, length = struct.unpack_from("iIII", events)
                found.append(f"{mask:#x} {events[16 : 16 + length].rstrip(bytes(1)).decode()}")
                events = events[16 + length :]
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, address = self.server.accept()
                connection.close()
                found.append(f"{address}")
        return found


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    file = tmp_path / "canary.wav"
    file.write_bytes(corpus.audio("wav_pcm16_mono_16k.wav"))
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(watch, os.fsencode(tmp_path), _OPENED | _READ) >= 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield Canary(file, server, watch)
    os.close(watch)


def test_the_canary_sings_when_it_is_touched(canary: Canary) -> None:
    assert canary.touched() == []
    canary.file.read_bytes()
    assert any("canary.wav" in each for each in canary.touched())
    socket.create_connection(canary.server.getsockname()).close()
    assert any("127.0.0.1" in each for each in canary.touched())


@pytest.mark.parametrize("name", [*playlists(), *references()])
def test_no_reference_is_followed(canary: Canary, name: str) -> None:
    forms = [
        f"file://{canary.file}",
        str(canary.file),
        f"fd:{canary.watch}",
        f"concat:{canary.file}|{canary.file}",
    ]
    for form in forms:
        files = {**playlists(form, canary.http), **references(form, canary.http)}
        for rate in (None, 16_000):
            with contextlib.suppress(MediaError):
                source = Source(files[name])
                decode(source, probe(source), DecodeTarget(rate, 1 << 22))
    assert canary.touched() == []


@pytest.mark.parametrize("name", playlists())
def test_no_playlist_is_a_sound(name: str) -> None:
    with pytest.raises(MediaError):
        probe(Source(playlists()[name]))


@pytest.mark.parametrize("name", [name for name in references() if not name.startswith("samples")])
def test_a_sound_that_refers_to_more_than_itself_is_itself(name: str) -> None:
    source = Source(references()[name])
    assert decode(source, probe(source), DecodeTarget(16_000, 1 << 22)).array.shape[1] >= 8_000 * 0.98
