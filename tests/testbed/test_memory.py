"""The most memory that was held, as the hostile files' suites go by it. In fresh processes: a heap that has room gives
what it had before.
"""

from __future__ import annotations

import subprocess
import sys

MIB = 1 << 20


def told(script: str) -> list[int]:
    """The numbers that a process of its own prints."""
    whole = f"from testbed.memory import peak, renewed_peak\n{script}"
    done = subprocess.run([sys.executable, "-c", whole], check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def test_what_was_taken_and_given_back_counts_until_the_peak_is_renewed() -> None:
    before, after = told(
        f"held = renewed_peak(); taken = b'x' * {64 * MIB}; del taken; print(peak() - held)\n"
        "held = renewed_peak(); print(peak() - held)"
    )
    assert before > 60 * MIB > after


def test_what_the_process_held_that_this_one_was_started_from_does_not_count() -> None:
    larger = b"x" * (256 * MIB)
    (grown,) = told("held = renewed_peak(); print(peak() - held)")
    assert grown < 64 * MIB < len(larger)
