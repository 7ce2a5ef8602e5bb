"""System shared memory that clients have registered at the model server: read for media, written for outputs.

The model server knows what a name stands for and is asked each time; what it does not know, it says itself. The object
is opened by its name alone, so that no other file can be meant, and never our own arena. It must never keep one open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from sidecar.deadline import Deadline
from sidecar.edge.open_inference.messages import Place
from sidecar.errors import InvalidRequest, UpstreamFailed
from sidecar.stages.deliver.passing import Passing
from sidecar.stages.deliver.unary import Metadata

STATUS: Final = "SystemSharedMemoryStatus"
_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is on Linux, not a place for files of ours


class Regions:
    """Regions at the model server behind `passing`."""

    def __init__(self, passing: Passing) -> None:
        self._passing = passing

    async def read(self, place: Place, deadline: Deadline, headers: Metadata) -> bytes:
        """The bytes at a place. Raises InvalidRequest where they are not there, and Said."""
        with await self._opened(place, os.O_RDONLY, deadline, headers) as (file, offset):
            data = os.pread(file, place.nbytes, offset)
        if len(data) != place.nbytes:
            raise _outside(place)
        return data

    async def write(
        self, place: Place, data: bytes | memoryview, deadline: Deadline, headers: Metadata
    ) -> None:
        """Lays bytes at a place, which must have room for them. Raises as `read`."""
        if len(data) > place.nbytes:
            raise InvalidRequest(
                f"region {place.region!r} was given {place.nbytes} bytes for an output of {len(data)}: allow more",
                field="shared_memory_byte_size",
            )
        with await self._opened(place, os.O_RDWR, deadline, headers) as (file, offset):
            try:
                written = os.pwrite(file, data, offset)
            except OSError as error:
                raise _outside(place) from error
            if written != len(data):
                raise _outside(place)

    async def _opened(
        self, place: Place, mode: int, deadline: Deadline, headers: Metadata
    ) -> AbstractContextManager[tuple[int, int]]:
        asked = service_pb2.SystemSharedMemoryStatusRequest(name=place.region).SerializeToString()
        told = await self._passing.unary(STATUS, asked, deadline, headers)
        try:
            regions = service_pb2.SystemSharedMemoryStatusResponse.FromString(told.message).regions
        except DecodeError as error:
            raise UpstreamFailed(
                "the model server told nothing of its shared memory that can be read"
            ) from error
        if place.region.startswith(self._passing.own):
            raise own(place.region)
        if place.region not in regions:
            raise InvalidRequest(
                f"region {place.region!r} is not one of system shared memory that is registered: register it first",
                field="shared_memory_region",
            )
        region = regions[place.region]
        if region.key.lstrip("/").startswith(self._passing.own):
            raise own(place.region)
        if place.offset + place.nbytes > region.byte_size:
            raise _outside(place)
        return _opened(region.key, region.offset + place.offset, place, mode)


@contextmanager
def _opened(key: str, offset: int, place: Place, mode: int) -> Iterator[tuple[int, int]]:
    """The object of that key, which has the place at `offset`."""
    name = key.removeprefix("/")
    if not name or "/" in name or name in {".", ".."}:
        raise InvalidRequest(
            f"region {place.region!r} has the key {key!r}, which is no name of shared memory",
            field="shared_memory_region",
        )
    try:
        file = os.open(_FOLDER / name, mode | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequest(
            f"region {place.region!r} cannot be opened here ({error.strerror}): the sidecar must share /dev/shm with "
            "its client, or be sent the bytes",
            field="shared_memory_region",
        ) from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size < offset + place.nbytes:
            raise _outside(place)
        yield file, offset
    finally:
        os.close(file)


def own(name: str) -> InvalidRequest:
    """That a region is a sidecar's own."""
    return InvalidRequest(
        f"region {name!r} is a sidecar's own memory, or has a name or key as such memory has: use another",
        field="shared_memory_region",
    )


def _outside(place: Place) -> InvalidRequest:
    return InvalidRequest(
        f"{place.nbytes} bytes at {place.offset} are not inside region {place.region!r}",
        field="shared_memory_byte_size",
    )
