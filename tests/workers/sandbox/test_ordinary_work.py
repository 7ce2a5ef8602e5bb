"""In the sandbox everything comes out as outside it: tensors to the bit, and errors to the word."""

from __future__ import annotations

import json
import subprocess
import sys


def test_every_file_of_the_corpus_has_the_same_outcome_by_every_recipe() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.workers.sandbox.working"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["different"] == {}, told.stderr
    assert found["jobs"] > 500
