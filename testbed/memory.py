"""The most memory that this process has held since it was asked last: the kernel's own peak, set back at will.

Never by getrusage: its `ru_maxrss` begins with what the process held that this one was started from, and nothing sets
it back.
"""

from __future__ import annotations

from pathlib import Path


def renewed_peak() -> int:
    """Bytes that are held now, which the peak is set back to."""
    Path("/proc/self/clear_refs").write_text("5")
    return _held("VmRSS")


def peak() -> int:
    """The most bytes held at once since the peak was renewed; what was given back at once counts too."""
    return _held("VmHWM")


def _held(figure: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(figure))
