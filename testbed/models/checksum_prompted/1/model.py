"""An image beside plain inputs: says the prompt back, adds up the ids, scales the checksum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import numpy as np

from testbed.backend import Arrays, Model
from testbed.checksum import checksum


class TritonPythonModel(Model):
    """Request by request and not stacked, because `scale` may be missing in some (then it is 1)."""

    def answer(self, inputs: Arrays) -> Arrays:
        sums = np.array([checksum(row) for row in inputs["pixel_values"]])
        return {
            "checksum": sums * inputs.get("scale", np.ones((1, 1), np.float32)),
            "echo": inputs["prompt"],
            "ids_sum": inputs["ids"].sum(axis=1, keepdims=True),
        }
