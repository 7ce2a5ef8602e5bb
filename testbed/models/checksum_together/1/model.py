"""One checksum over all images of a request together: a model that does no batching of its own."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import numpy as np

from testbed.backend import Arrays, Model
from testbed.checksum import checksum, crc32


class TritonPythonModel(Model):
    """`images` is how many there were."""

    def answer(self, inputs: Arrays) -> Arrays:
        pixels = inputs["pixel_values"]
        return {
            "checksum": np.array(checksum(pixels)),
            "crc32": np.array([crc32(pixels)], np.uint32),
            "images": np.array([len(pixels)], np.int64),
        }
