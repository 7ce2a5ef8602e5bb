"""The arena as another process has it: the same bytes, under their own mapping.

Who attaches allocates nothing there, and knows nothing of leases: it is told by the owner which bytes it
may read and write, and until when. It never takes the owner's lock, and never removes the object.
"""

from __future__ import annotations

import os

from sidecar.arena.segment import SHM, check_header, map_file
from sidecar.errors import InternalError


def attach(name: str, size: int) -> memoryview:
    """The arena's bytes, shared and writable, at the same offsets as the owner's.

    The mapping goes with the last view of it. Raises InternalError where there is no arena of that name
    and size.
    """
    try:
        file = os.open(SHM / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InternalError(
            f"the shared-memory object {name} cannot be opened: {error.strerror}; its owner may have ended"
        ) from error
    try:
        check_header(file, size)
        return memoryview(map_file(file, size))
    finally:
        os.close(file)
