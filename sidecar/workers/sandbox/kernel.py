"""The kernel's calls that Python has no names for, by the C library that is loaded already.

It decides nothing, and turns what the kernel says into OSError.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, *(4 * [ctypes.c_ulong])]


class Unavailable(Exception):
    """A layer of the sandbox cannot be applied in this process; the message says why, in few words."""


def system_call(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call by its number: integers, buffers, and None for a null pointer. Raises OSError."""
    words = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    found: int = _libc.syscall(ctypes.c_long(number), *words)
    if found < 0:
        raise _error()
    return found


def process_control(option: int, *arguments: int) -> int:
    """prctl(2). Raises OSError."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    found: int = _libc.prctl(option, *padded)
    if found < 0:
        raise _error()
    return found


def set_capabilities(header: bytes, sets: bytes) -> None:
    """capset(2). Raises OSError."""
    laid = [ctypes.create_string_buffer(each, len(each)) for each in (header, sets)]
    if _libc.capset(*laid) < 0:
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
