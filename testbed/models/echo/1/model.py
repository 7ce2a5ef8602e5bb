"""Takes no media: gives text and numbers back as they came."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

from testbed.backend import Arrays, Model


class TritonPythonModel(Model):
    """The outputs bear the inputs' names."""

    def answer(self, inputs: Arrays) -> Arrays:
        return inputs
