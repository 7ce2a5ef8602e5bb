"""Takes away what a process may do beyond any other: capabilities, and gaining more by running a program.

It works for any user; root without capabilities is a user like others, but for the files that are root's.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidecar.workers.sandbox.kernel import Unavailable, process_control, set_capabilities

# linux/prctl.h
_SET_NO_NEW_PRIVS: Final = 38
_CAPBSET_DROP: Final = 24
_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 47, 4
# linux/capability.h: the version with two words of 32 bits for each of the three sets.
_CAPABILITY_VERSION: Final = 0x20080522
_LAST: Final = Path("/proc/sys/kernel/cap_last_cap")


def set_no_new_privs() -> None:
    """For this thread and those that it starts, for good: set-user-id programs and file capabilities do nothing."""
    try:
        process_control(_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise Unavailable(f"prctl: {error.strerror}") from error


def drop_capabilities() -> None:
    """Empties this thread's sets, of which threads that it starts inherit theirs."""
    with suppress(OSError):  # kernels before 4.3 have none
        process_control(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    # The bounding set may be lowered by who has CAP_SETPCAP alone. For others it stays, and no_new_privs makes it vain.
    with suppress(OSError, ValueError):
        for number in range(int(_LAST.read_text()) + 1):
            process_control(_CAPBSET_DROP, number)
    try:
        set_capabilities(struct.pack("=Ii", _CAPABILITY_VERSION, 0), struct.pack("=6I", *(6 * [0])))
    except OSError as error:
        raise Unavailable(f"capset: {error.strerror}") from error
