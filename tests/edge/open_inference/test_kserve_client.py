"""KServe's own Python client, unchanged, before the sidecar: with ordinary tensors, and with encoded files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton_client

import testbed.media
from testbed.triton import Triton
from tests.edge.open_inference.test_triton_clients import encoded
from tests.running import Running

pytestmark = [pytest.mark.triton, pytest.mark.full, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
PICTURE = Path(testbed.media.__file__).parent / "text.jpg"


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """One with KServe, which wants more than belongs beside ours."""
    home = ROOT / ".venv-peers" / "kserve"
    subprocess.run(
        [ROOT / "scripts" / "venv.sh", home, ROOT / "requirements" / "peers-kserve.lock"], check=True
    )
    return home / "bin" / "python"


def asked(interpreter: Path, address: str, model: str = "") -> dict[str, Any]:
    script = Path(__file__).with_name("kserve_asks.py")
    done = subprocess.run(
        [interpreter, script, address, model, PICTURE], check=True, capture_output=True, text=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_it_is_told_what_triton_tells_it(interpreter: Path, triton: Triton, sidecar: Running) -> None:
    wanted = asked(interpreter, triton.grpc_address)
    assert wanted["error"][0] == "NOT_FOUND"
    assert asked(interpreter, sidecar.address) == wanted


def test_it_sends_files_in_the_place_of_tensors(interpreter: Path, sidecar: Running) -> None:
    found = asked(interpreter, sidecar.address, "clip")["media"]
    with triton_client.InferenceServerClient(sidecar.address) as client:
        result = client.infer("clip", [encoded(PICTURE.read_bytes())])
    assert found == {name: result.as_numpy(name).tolist() for name in found}
    assert "crc32" in found
