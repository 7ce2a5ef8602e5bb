"""The emulated accelerator where no compiler made the native one: the same control, the same record, in Python.

It sleeps, so that it costs no CPU but the backend's own. Nothing here may need more than the standard library and
numpy; what the two files beside it hold is told in testbed/native/sink.c.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb  # type: ignore[import-not-found] # exists inside the backend alone

_CONTROL, _RECORD = struct.Struct("<ddd"), struct.Struct("<qqq")
_POLL_S = 0.01


class TritonPythonModel:
    """Says, for every row, how many bytes came for it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        folder = Path(args["model_repository"])
        with (folder / "control").open("rb") as control:
            self.control = mmap.mmap(control.fileno(), _CONTROL.size, access=mmap.ACCESS_READ)
        self.record = (folder / "record").open("ab", buffering=0)
        self.input = json.loads(args["model_config"])["input"][0]["name"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One execution: all its rows, one response a request."""
        began_ns = time.monotonic_ns()
        tensors = [pb.get_input_tensor_by_name(each, self.input).as_numpy() for each in requests]
        rows = sum(map(len, tensors))
        base_ms, row_ms, _ = _CONTROL.unpack(self.control)
        time.sleep(max(0.0, (base_ms + row_ms * rows) / 1e3 - (time.monotonic_ns() - began_ns) / 1e9))
        while _CONTROL.unpack(self.control)[2]:
            time.sleep(_POLL_S)
        self.record.write(_RECORD.pack(began_ns, time.monotonic_ns(), rows))
        told = [np.full((len(each), 1), each[0].nbytes, np.int64) for each in tensors]
        return [pb.InferenceResponse([pb.Tensor("bytes", each)]) for each in told]

    def finalize(self) -> None:
        self.record.close()
