"""What an installation was compiled for is looked for before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.processor import NEEDED, lacking

CPUINFO = "processor\t: 0\nvendor_id\t: Any\nflags\t\t: fpu sse4_2 {more}\nbugs\t\t: avx2_is_no_bug\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path


def told(root: Path, needed: str, cpuinfo: str) -> str | None:
    (root / NEEDED).write_text(needed)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    return lacking(root, root)


def test_a_processor_that_lacks_something_is_told_what_and_what_to_do(root: Path) -> None:
    problem = told(root, "avx2 fma\n", CPUINFO.format(more="fma"))
    assert problem is not None
    assert "this one lacks avx2:" in problem
    assert "PILLOW=pillow" in problem


def test_a_processor_that_has_everything_is_well(root: Path) -> None:
    assert told(root, "avx2 fma\n", CPUINFO.format(more="avx2 fma")) is None


def test_a_processor_that_tells_no_flags_is_taken_to_have_them(root: Path) -> None:
    assert told(root, "avx2\n", "processor\t: 0\n") is None


def test_an_installation_for_any_processor_asks_nothing(root: Path) -> None:
    (root / "proc/cpuinfo").write_text(CPUINFO.format(more=""))
    assert lacking(root, root) is None


MAIN = """
import sys
from pathlib import Path
from sidecar import processor
Path(sys.argv[1], processor.NEEDED).write_text("no-such-flag")
sys.prefix = sys.argv[1]
from sidecar.__main__ import main
try:
    main()
finally:
    print([name for name in ("PIL", "numpy", "grpc") if name in sys.modules])
"""


def test_the_command_refuses_before_anything_compiled_is_loaded(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("sidecar: this installation is compiled for processors with no-such-flag")
    assert ended.stdout.strip() == "[]"
