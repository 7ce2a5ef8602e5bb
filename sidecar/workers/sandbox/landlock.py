"""Landlock: a worker may open, make, change and remove no file at all, and reach nobody.

The rule set has no rules: everything that this kernel can forbid is forbidden, and by then a worker has everything that
it needs. What is open already stays open (descriptors.py closes it). Landlock forbids no look at a file's name and
facts; seccomp does, for all but open files.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping
from typing import Final

from sidecar.workers.sandbox.kernel import Unavailable, system_call

# The same on every architecture, as all calls since 5.1.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_TELL_VERSION: Final = 1
# linux/landlock.h: bits of the file system's rights by the version that brought them.
_FILE_BITS: Final[Mapping[int, int]] = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_BITS: Final = 0b11  # bind and connect by TCP, since version 4
_SCOPE_BITS: Final = 0b11  # abstract unix sockets and signals of others, since version 6
_NET_SINCE, _SCOPE_SINCE = 4, 6


def version() -> int:
    """Landlock's version in this kernel. Raises Unavailable."""
    try:
        return system_call(_CREATE_RULESET, None, 0, _TELL_VERSION)
    except OSError as error:
        raise Unavailable(f"the kernel has no Landlock, or keeps it from us: {error.strerror}") from error


def ruleset(found: int) -> bytes:
    """`struct landlock_ruleset_attr` that handles, and so forbids, all that this version knows."""
    files = (1 << _FILE_BITS[min(found, max(_FILE_BITS))]) - 1
    words = [files]
    if found >= _NET_SINCE:
        words.append(_NET_BITS)
    if found >= _SCOPE_SINCE:
        words.append(_SCOPE_BITS)
    return struct.pack(f"={len(words)}Q", *words)


def forbid_files() -> str:
    """For this thread and those that it starts, for good; gives the version. Raises Unavailable."""
    found = version()
    laid = ruleset(found)
    try:
        rules = system_call(_CREATE_RULESET, ctypes.create_string_buffer(laid, len(laid)), len(laid), 0)
        try:
            system_call(_RESTRICT_SELF, rules, 0)
        finally:
            os.close(rules)
    except OSError as error:
        raise Unavailable(f"the kernel takes no Landlock rules: {error.strerror}") from error
    return str(found)
