"""The model that takes tensors and answers small, for the real Triton: what stands for the accelerator's model.

It is the testbed's `sink`, whose native backend leaves its input unread where the server has it. Where that
backend could not be built, a Python model takes its place, to which Triton hands every input over once more;
`kind` says which, and every result with it.
"""

from __future__ import annotations

from pathlib import Path

from testbed.install import Installation
from testbed.triton import MODELS

SINK = "sink"
INPUT = "pixel_values"
"""FP32 of any three axes, besides the batch's."""

_PYTHON = '''\
"""Says how many bytes came for each row, as the native sink does."""

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        rows = [pb.get_input_tensor_by_name(each, "pixel_values").as_numpy() for each in requests]
        told = [np.full((len(each), 1), each[0].nbytes, np.int64) for each in rows]
        return [pb.InferenceResponse([pb.Tensor("bytes", each)]) for each in told]
'''


def kind(found: Installation) -> str:
    """What the model runs in: "native" where the testbed's backend is built, else "python"."""
    return "native" if (found.backends / SINK / f"libtriton_{SINK}.so").exists() else "python"


def write_sink(repository: Path, found: Installation) -> None:
    """Puts the sink into a model repository."""
    config = (MODELS / SINK / "config.pbtxt").read_text()
    version = repository / SINK / "1"
    version.mkdir(parents=True)
    if kind(found) == "python":
        config = config.replace('backend: "sink"', 'backend: "python"')
        (version / "model.py").write_text(_PYTHON)
    (version.parent / "config.pbtxt").write_text(config)
