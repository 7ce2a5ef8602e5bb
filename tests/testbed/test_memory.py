"""The most memory that was held, as the hostile files' suites go by it."""

from __future__ import annotations

import subprocess
import sys

from testbed.memory import peak, renewed_peak

MIB = 1 << 20


def test_what_was_taken_and_given_back_counts_until_the_peak_is_renewed() -> None:
    held = renewed_peak()
    taken = b"x" * (64 * MIB)
    del taken
    assert peak() - held > 60 * MIB
    held = renewed_peak()
    assert peak() - held < 60 * MIB


def test_what_the_process_held_that_this_one_was_started_from_does_not_count() -> None:
    larger = b"x" * (256 * MIB)
    script = "from testbed.memory import peak, renewed_peak; held = renewed_peak(); print(peak() - held)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 64 * MIB < len(larger)
