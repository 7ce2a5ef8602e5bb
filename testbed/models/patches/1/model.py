"""The vision tower of a model of Qwen2-VL's kind: the patches of all pictures in a row, and their grids."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import numpy as np

from testbed.backend import Arrays, Model
from testbed.checksum import crc32


class TritonPythonModel(Model):
    """`grids` are the ones that came."""

    def answer(self, inputs: Arrays) -> Arrays:
        patches = np.array([crc32(inputs["pixel_values"])], np.uint32)
        return {"crc32": patches, "grids": inputs["image_grid_thw"]}
