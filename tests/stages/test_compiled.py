"""Kernels' code: kept with an installation for levels of processors, taken by the best that fits, never written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.stages import compiled, kernels

PROJECT = Path(__file__).parents[2]
V3 = dict.fromkeys(compiled.LEVELS["x86-64-v3"], True)
V4 = dict.fromkeys(compiled.LEVELS["x86-64-v4"], True)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    for level in ("x86-64-v3", "x86-64-v4"):
        (tmp_path / level).mkdir()
    return tmp_path


def test_the_best_level_that_the_processor_has_is_taken(kept: Path) -> None:
    assert compiled.level_of(kept, V4) == "x86-64-v4"
    assert compiled.level_of(kept, V3) == "x86-64-v3"
    assert compiled.level_of(kept, V4 | {"avx512bw": False}) == "x86-64-v3"


def test_a_processor_below_every_level_is_compiled_for_by_itself(kept: Path) -> None:
    assert compiled.level_of(kept, V3 | {"avx2": False}) is None
    assert compiled.level_of(kept, {}) is None


def test_a_level_that_nothing_is_kept_for_is_not_taken(kept: Path) -> None:
    (kept / "x86-64-v4").rmdir()
    assert compiled.level_of(kept, V4) == "x86-64-v3"
    assert compiled.level_of(kept / "nothing", V4) is None


def test_a_checkout_keeps_nothing_and_leaves_it_to_numba() -> None:
    kernels.warm()
    assert not compiled.KEPT.exists()
    assert "of this processor" in compiled.told()


TOLD = """
import sys
from sidecar.stages import compiled, fourier, kernels, unfilter
for each in (kernels, fourier, unfilter):
    each.warm()
print(compiled.__file__, compiled.told(), sep="|")
"""


@pytest.mark.full
@pytest.mark.timeout(300)
def test_what_is_kept_is_taken_and_never_written(tmp_path: Path) -> None:
    """An installation of its own, whose code is kept for any processor of this architecture."""
    shutil.copytree(PROJECT / "sidecar", tmp_path / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "sidecar" / "stages" / "kept"

    def run(*arguments: str) -> str:
        where = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=where, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert "kernels for generic" in run(str(PROJECT / "scripts" / "kernels.py"), str(folder), "generic")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    where, told = run("-c", TOLD).strip().split("|")
    assert where == str(tmp_path / "sidecar/stages/compiled.py")
    assert (
        told
        == f"{len(compiled.KERNELS) + 2} taken from what is kept with the installation for generic, 0 compiled"
    )
    # What is missing is compiled, and not kept: nobody who serves writes code.
    missing = next(folder.rglob("unfilter.spread-*.nbc"))
    missing.unlink()
    assert run("-c", TOLD).strip().endswith("for generic, 1 compiled")
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == {
        file: at for file, at in before.items() if file != missing
    } | {missing.parent: missing.parent.stat().st_mtime_ns}
