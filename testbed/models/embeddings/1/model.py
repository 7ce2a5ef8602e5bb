"""Answers with tensors as large as an encoder's, made from one seed a row, and takes its time over it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import time

import numpy as np

from testbed.backend import Arrays, Model

WIDTH = 512


class TritonPythonModel(Model):
    """One request at a time, of up to four rows."""

    def answer(self, inputs: Arrays) -> Arrays:
        seed = inputs["seed"]
        rows = len(seed)
        tokens = int(inputs["tokens"][0, 0]) if "tokens" in inputs else WIDTH
        places = np.arange(tokens * WIDTH).reshape(1, tokens, WIDTH)
        values = inputs.get("values", np.zeros((rows, 1), np.float16))
        answer = {
            "embedding": ((places + seed[:, :, None]) % 1024).astype(np.float16),
            "mask": np.repeat(seed % 256, WIDTH * WIDTH, axis=1).astype(np.uint8),
            "sum": values.astype(np.float64).sum(axis=1, keepdims=True),
            "word": inputs.get("word", np.full((rows, 1), b"", object)),
        }
        if "delay_ms" in inputs:
            time.sleep(float(inputs["delay_ms"][0, 0]) / 1e3)
        return answer
