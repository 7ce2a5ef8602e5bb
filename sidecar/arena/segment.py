"""The arena's memory: one POSIX shared-memory object that its owner holds, and what dead owners left.

An object is a file in /dev/shm, which is what shm_open opens on Linux. It is the owner's for as long as
the owner keeps an flock on it, which ends with the owner however it ends, in whatever process namespace;
a process number says nothing in another container. The law that makes clearing up safe: the magic is
written only by who holds the lock already, so a file with the magic whose lock can be taken has a dead
owner. All pages are there before the first use: a page that cannot be had is an error at start, and no
SIGBUS later.

It never truncates an object: whoever still maps it (a model server) would die of SIGBUS. It removes no
file that is not marked as this program's, of this user, and without a living owner. It trusts nothing
else in the shared pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import re
import secrets
import stat
import struct
import sys
from pathlib import Path

from sidecar.errors import InternalError

log = logging.getLogger(__name__)

SHM = Path("/dev/shm")  # noqa: S108 - where shm_open keeps its objects, on every Linux
# The first page is the header's; slots lie after it, on pages of their own.
HEADER_BYTES = 4096
_HEADER = struct.Struct("<16sIIQ")  # magic, version, bytes of the header, bytes of the whole
_MAGIC = b"sidecar arena\0\0\0"
_VERSION = 1
_RANDOM_BYTES = 8


class Segment:
    """An object of this process: `name` as shm_open takes it, `size` in bytes, mapped and all pages there."""

    def __init__(self, prefix: str, size: int, mode: int = 0o600) -> None:
        """Creates `{prefix}-{16 hex digits}`, for those whom `mode` lets in. Raises OSError: ENOSPC without room."""
        self.name = f"{prefix}-{secrets.token_hex(_RANDOM_BYTES)}"
        self.size = size
        self._path = SHM / self.name
        self._open = True
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._path, flags, mode)
        try:
            # Waits at most for another's look at the new file.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.fchmod(self._file, mode)  # whatever the umask takes away
            os.pwrite(self._file, _HEADER.pack(_MAGIC, _VERSION, HEADER_BYTES, size), 0)
            os.posix_fallocate(self._file, 0, size)
            self._map = map_file(self._file, size)
        except BaseException:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            raise
        self.memory = memoryview(self._map)

    def close(self) -> None:
        """Takes the name away and lets go of the memory as soon as the last view of it is gone; twice is once."""
        if not self._open:
            return
        self._open = False
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        # Views that are still held keep the pages; they go with the last of them.
        with contextlib.suppress(BufferError):
            self.memory.release()
            self._map.close()


def free_bytes() -> int:
    """Bytes that /dev/shm has free; as good as endless where it was mounted without a size."""
    room = os.statvfs(SHM)
    return room.f_bavail * room.f_frsize if room.f_blocks else sys.maxsize


def clear_stale(prefix: str) -> tuple[str, ...]:
    """Removes what dead owners of that prefix left in /dev/shm, and nothing else; the names removed."""
    ours = re.compile(re.escape(prefix) + rf"-[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
    names = [name for name in os.listdir(SHM) if ours.fullmatch(name)]  # noqa: PTH208 - names, not paths
    return tuple(name for name in names if _clear_if_stale(name))


def check_header(file: int, size: int) -> None:
    """Raises InternalError unless the open file is an arena of `size` bytes of this version."""
    if (found := _header(file)) is None or found[:2] != (_MAGIC, _VERSION):
        raise InternalError(f"the shared-memory object has no arena's header of version {_VERSION}")
    if not size == found[3] == os.fstat(file).st_size:
        raise InternalError(
            f"the shared-memory object has {os.fstat(file).st_size} bytes, {found[3]} by its header, "
            f"and {size} were expected"
        )


def map_file(file: int, size: int) -> mmap.mmap:
    """The file's bytes, shared and writable, with page tables filled so that no first touch faults.

    The mapping keeps a second descriptor of the file, closed with it (Python 3.13 can do without).
    """
    return mmap.mmap(file, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ | mmap.PROT_WRITE)


def _clear_if_stale(name: str) -> bool:
    try:
        file = os.open(SHM / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # gone by now, another user's, or a link: not ours to judge
        return False
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            return False
        if (found := _header(file)) is None or found[0] != _MAGIC:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            (SHM / name).unlink()
        except FileNotFoundError:
            return False
        log.info("freed %d bytes of shared memory: %s was left by a process that died", facts.st_size, name)
        return True
    finally:
        os.close(file)


def _header(file: int) -> tuple[bytes, int, int, int] | None:
    """A file's first bytes as a header, without a mapping, which could fault; None where it is too short."""
    head = os.pread(file, _HEADER.size, 0)
    if len(head) < _HEADER.size:
        return None
    magic, version, header_bytes, size = _HEADER.unpack(head)
    return magic, version, header_bytes, size
