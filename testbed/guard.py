"""A guard: cleans up what a process has started, should that process die without saying goodbye."""

from __future__ import annotations

import subprocess


def start_guard(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts a shell that waits for this process to be gone, whatever ended it, and then runs the script.

    The arguments are the script's $1 and up. It waits for the end of its stdin, so `communicate` has the
    script run now, and `kill` before it has it never run. Its session is its own: no signal to this
    process's group reaches it.
    """
    return subprocess.Popen(  # noqa: S603 - scripts of the testbed
        ["/bin/sh", "-c", f"read -r _; {script}", "guard", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
