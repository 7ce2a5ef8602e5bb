"""The emulated accelerator on the real Triton: it takes as long as it is told to, and tells what it did."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from bench.episodes.accelerator import Accelerator, accepted, trace_flags
from testbed.install import installed, why_not
from testbed.triton import Triton

pytestmark = pytest.mark.triton
TENSOR = np.zeros((1, 4), np.float32)


def ask(client: grpcclient.InferenceServerClient) -> float:
    """Seconds that an inference took."""
    tensor = grpcclient.InferInput("x", TENSOR.shape, "FP32")
    tensor.set_data_from_numpy(TENSOR)
    begun = time.monotonic()
    client.infer("slow", [tensor])
    return time.monotonic() - begun


def test_it_takes_as_long_as_it_is_told_and_is_on_record_beside_the_servers_own_trace(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    slow = Accelerator("slow", "x", "4", tmp_path / "models")
    slow.write(installed())
    with Triton.start(repository=tmp_path / "models", flags=trace_flags(tmp_path / "trace")) as triton:
        with grpcclient.InferenceServerClient(triton.grpc_address) as client:
            for milliseconds in (5.0, 60.0):
                slow.take(milliseconds - 1, 1.0)
                assert ask(client) >= milliseconds / 1e3
    executions = slow.executions()
    assert executions.shape == (2, 3)
    assert ((executions[:, 1] - executions[:, 0]) / 1e6).tolist() == pytest.approx([5, 60], abs=4)
    assert executions[:, 2].tolist() == [1, 1]
    requests = accepted(tmp_path / "trace")["slow"]
    # Read before it began, by both records; each tells the beginning by the same clock.
    assert (requests[:, 0] <= requests[:, 1]).all()
    assert np.abs(requests[:, 1] - executions[:, 0]).max() < 5e6
