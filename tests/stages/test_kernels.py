"""Compiled once for one kind of arguments, kept where it may be, and working where it may not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.stages import kernels
from sidecar.stages.transform.resize import FILTERS, resize
from testbed.pictures import noise

KERNELS: dict[str, Any] = {
    name: getattr(kernels, name) for name in ("resize", "resized_axis", "pick", "look_up")
}


def run(code: str, **environment: str) -> str:
    """What a fresh process prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout


def test_warm_compiles_all_that_pictures_will_ask_for() -> None:
    """A kind of argument that it forgot would cost its first caller a second."""
    kernels.warm()
    before = {name: kernel.signatures for name, kernel in KERNELS.items()}
    for resample in FILTERS:
        for target in ((20, 30), (50, 30), (20, 60), (90, 80), (3, 59)):
            resize(noise(50, 60), target, resample, "pil")
            resize(noise(50, 60), target, resample, "torchvision")
            resize(noise(60, 50).swapaxes(0, 1)[::-1], target, resample, "pil")
    assert before == {name: kernel.signatures for name, kernel in KERNELS.items()}
    assert {name: len(found) for name, found in before.items()} == {
        "resize": 1,
        "resized_axis": 1,
        "pick": 1,
        "look_up": 3,
    }


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_let_go_of_the_lock_and_keep_to_one_thread_and_to_plain_arithmetic(name: str) -> None:
    options = KERNELS[name].targetoptions
    assert options["nogil"]
    assert not options.get("parallel")
    assert not options.get("fastmath")


PICK = """
import numpy as np
from sidecar.stages import kernels
out = np.zeros(6, np.uint8)
source = kernels.sealed(np.arange(12, dtype=np.uint8))
{before}
kernels.pick(source, 6, np.array([1]), np.array([1, -1]), out)
print(out.tolist(), kernels.pick.stats.cache_path)
"""


def test_where_nothing_may_be_kept_kernels_are_compiled_in_memory() -> None:
    """numba is left a single place to look, which is not set: as with no home and a read-only tree."""
    printed = run(
        PICK.format(before=""), NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator", NUMBA_CACHE_DIR=""
    )
    assert printed.strip() == "[9, 10, 11, 0, 0, 0] None"


@pytest.mark.full
def test_a_full_disk_does_not_stop_warming(tmp_path: Path) -> None:
    before = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # every write fails, as on a full disk
kernels.warm()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""
    printed = run(PICK.format(before=before), NUMBA_CACHE_DIR=str(tmp_path))
    assert printed.startswith("[9, 10, 11, 0, 0, 0] ")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bytes_are_looked_up_by_channel(kind: type[np.unsignedinteger[Any]], channels: int) -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (7, 11, channels), np.uint8)
    table = random.integers(0, 256, (channels, 256)).astype(kind)
    out = np.zeros(77 * channels, kind)
    lengths, steps = np.array([channels, 7, 11]), np.array([1, 11 * channels, channels])
    walk = lengths, steps, np.array([77, 11, 1])
    kernels.look_up(kernels.sealed(pixels.reshape(-1)), kernels.sealed(table), out, *walk)
    expected = np.stack([table[c][pixels[:, :, c]] for c in range(channels)])
    assert np.array_equal(expected, out.reshape(channels, 7, 11))
