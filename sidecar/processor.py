"""What of the processor this installation was compiled for, and whether it is there.

An image's libraries may be compiled for instructions that not every processor has, and one that lacks them ends the
process without a word. So who compiled them writes a file into the environment, which is looked at before any of them
is loaded. This stands on nothing, for anything may be such a library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

# In an environment's folder: flags as /proc/cpuinfo names them, between blanks. None is asked where there is no file.
NEEDED: Final = "needs-processor"


def lacking(environment: Path, root: Path = Path("/")) -> str | None:
    """A sentence on what this processor lacks for `environment`, a folder, and what to do; None where it has all.

    A processor that tells no flags is taken to have them.
    """
    try:
        needed = (environment / NEEDED).read_text(encoding="ascii").split()
        told = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = next(
        (line.partition(":")[2].split() for line in told.splitlines() if line.startswith("flags")), needed
    )
    missing = [flag for flag in needed if flag not in flags]
    if not missing:
        return None
    return (
        f"this installation is compiled for processors with {', '.join(needed)}, and this one lacks "
        f"{', '.join(missing)}: give a virtual machine its host's processor, or take an image built with PILLOW=pillow"
    )
