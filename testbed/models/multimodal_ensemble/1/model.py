"""A stand-in for TensorRT-LLM's older multimodal `ensemble`: tells the shape of its pictures, and the prompt back."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import numpy as np

from testbed.backend import Arrays, Model


class TritonPythonModel(Model):
    """A request is a row."""

    def answer(self, inputs: Arrays) -> Arrays:
        given = [name for name in ("image_input", "image_bytes_input", "image_url_input") if name in inputs]
        seen = ", ".join(f"{name} {list(inputs[name].shape[1:])}" for name in given)
        words = inputs["text_input"][0][0].decode().split()[: int(inputs["max_tokens"][0][0])]
        return {"text_output": np.array([[f"[{seen}] {' '.join(words)}".encode()]], object)}
