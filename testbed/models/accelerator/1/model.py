"""An accelerator of known speed: checksum_fp32 whose every execution takes a settable time."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import time
from collections.abc import Mapping

import numpy as np

from testbed.backend import Arrays, ChecksumModel


class TritonPythonModel(ChecksumModel):
    """Sleeps until its time is up, so that it costs no more CPU than the checksum does."""

    def setup(self, parameters: Mapping[str, str]) -> None:
        self.base_ms = float(parameters["delay_base_ms"])
        self.per_item_ms = float(parameters["delay_per_item_ms"])

    def answer(self, inputs: Arrays) -> Arrays:
        began_ns = time.monotonic_ns()
        outputs = super().answer(inputs)
        rows = len(outputs["checksum"])
        service_s = (self.base_ms + self.per_item_ms * rows) / 1e3
        # The checksum is part of the service time, not on top of it.
        time.sleep(max(0.0, service_s - (time.monotonic_ns() - began_ns) / 1e9))
        times = {"began_ns": began_ns, "ended_ns": time.monotonic_ns()}
        return {**outputs, **{name: np.full((rows, 1), t, np.int64) for name, t in times.items()}}
