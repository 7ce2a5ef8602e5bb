"""A stand-in for TensorRT-LLM's older `whisper_bls`: tells how many samples it heard, and how loud they are."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import numpy as np

from testbed.backend import Arrays, Model


class TritonPythonModel(Model):
    """A request is a row."""

    def answer(self, inputs: Arrays) -> Arrays:
        (wave,) = inputs["WAV"]
        length = int(inputs["WAV_LENS"][0][0]) if "WAV_LENS" in inputs else len(wave)
        prefix = inputs["TEXT_PREFIX"][0][0].decode() if "TEXT_PREFIX" in inputs else ""
        text = f"{prefix}{length} of {len(wave)} samples, up to {np.abs(wave[:length]).max():.3f}"
        return {"TRANSCRIPTS": np.array([[text.encode()]], object)}
