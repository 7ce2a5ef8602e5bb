"""seccomp: puts the policy's program before every system call of every thread of this process, for good."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

from sidecar.workers.sandbox import bpf
from sidecar.workers.sandbox.kernel import Unavailable, system_call
from sidecar.workers.sandbox.policy import program
from sidecar.workers.sandbox.syscalls import ARCHITECTURES, Architecture

# linux/seccomp.h
_SET_MODE_FILTER: Final = 1
_ALL_THREADS, _LOG, _KEEP_SPECULATION = 1 << 0, 1 << 1, 1 << 2


def forbid_calls(*, log_denied: bool) -> None:
    """Forbids what the policy does, to all threads that are there. No thread starts after it. Raises Unavailable.

    Speculation is left as it is: kernels before 5.16 would switch parts of it off for whoever is filtered, which costs
    several percent and protects a process's memory from code that only reads it by guesses. Native code in the process
    just reads it.
    """
    architecture = here()
    if architecture is None:
        raise Unavailable(f"there is no table of system calls for {platform.machine()}")
    filter_calls(program(architecture, os.getpid()), architecture, log_denied=log_denied)


def filter_calls(rules: bpf.Block, architecture: Architecture, *, log_denied: bool = False) -> None:
    """Puts a program before every system call of every thread. Raises Unavailable."""
    laid = bpf.laid(rules)
    instructions = ctypes.create_string_buffer(laid, len(laid))
    # struct sock_fprog: a count, and a pointer at its own alignment.
    head = struct.pack("@HP", len(laid) // 8, ctypes.addressof(instructions))
    flags = _ALL_THREADS | _KEEP_SPECULATION | (_LOG if log_denied else 0)
    try:
        stuck = system_call(
            architecture.numbers["seccomp"],
            _SET_MODE_FILTER,
            flags,
            ctypes.create_string_buffer(head, len(head)),
        )
    except OSError as error:
        raise Unavailable(f"the kernel takes no seccomp filter: {error.strerror}") from error
    if stuck:
        raise Unavailable(f"thread {stuck} cannot be put under the filter")


def here() -> Architecture | None:
    """The architecture that this process runs on; None where it is not known."""
    return ARCHITECTURES.get(platform.machine()) if struct.calcsize("P") == 8 else None  # noqa: PLR2004 - 64 bits
