"""NVIDIA's perf_analyzer, unchanged, before the sidecar: with ordinary tensors, and with encoded files."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import testbed.media
from testbed.install import HOME
from tests.running import Running

pytestmark = [pytest.mark.triton, pytest.mark.full, pytest.mark.timeout(600)]
PICTURE = (Path(testbed.media.__file__).parent / "text.jpg").read_bytes()
# The last release whose wheel carries the binary; newer ones leave it to NVIDIA's containers.
WHEEL = "tritonclient==2.50.0"


@pytest.fixture(scope="module")
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The binary out of the wheel, and an environment in which it finds the libraries that Triton's wheel carries."""
    folder = tmp_path_factory.mktemp("perf_analyzer")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    subprocess.run(download, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = (each for each in files.namelist() if each.endswith("/bin/perf_analyzer"))
        binary = folder / "perf_analyzer"
        binary.write_bytes(files.read(name))
    binary.chmod(0o755)
    libraries = folder / "lib"
    libraries.mkdir()
    for wanted in ("libb64.so.0d", "libcudart.so.12"):
        stem = wanted.split(".")[0]
        found = sorted(HOME.rglob(f"{stem}-*.so*"))
        if not found:
            pytest.skip(f"Triton's wheel has no {wanted}")
        (libraries / wanted).symlink_to(found[0])
    return binary, {"LD_LIBRARY_PATH": str(libraries), "PATH": os.environ["PATH"]}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (
            "echo",
            {
                "text": {"content": ["a"], "shape": [1]},
                "numbers": {"content": [1.0, 2.0], "shape": [2]},
            },
        ),
        (
            "clip",
            {
                "image": {
                    "content": {
                        "b64": base64.b64encode(len(PICTURE).to_bytes(4, "little") + PICTURE).decode()
                    },
                    "shape": [1],
                }
            },
        ),
    ],
    ids=["ordinary tensors", "encoded files"],
)
def test_it_measures_a_model_through_the_sidecar(
    model: str,
    inputs: dict[str, object],
    perf_analyzer: tuple[Path, dict[str, str]],
    sidecar: Running,
    tmp_path: Path,
) -> None:
    binary, environment = perf_analyzer
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [inputs]}))
    command = [
        str(binary),
        "-m",
        model,
        "-i",
        "grpc",
        "-u",
        sidecar.address,
        "--input-data",
        str(data),
        "-b",
        "1",
    ]
    measured = subprocess.run(
        [*command, "--concurrency-range", "2", "-p", "2000", "-r", "4", "-s", "90"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert measured.returncode == 0, measured.stdout + measured.stderr
    (line,) = (
        each for each in measured.stdout.splitlines() if "throughput:" in each and "Concurrency" in each
    )
    assert float(line.split("throughput:")[1].split()[0]) > 0
