"""Tells speech from the rest: the voice-activity network that silero-vad carries."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

from collections.abc import Mapping

import numpy as np
import onnxruntime

from testbed.backend import WHEELS, Arrays, RowModel

NETWORK = WHEELS / "silero_vad" / "data" / "silero_vad_16k_sequence.onnx"
WINDOW, CONTEXT = 512, 64  # samples at 16 kHz; the network sees a window and the end of the one before
STATE = (1, 1, 128)


class TritonPythonModel(RowModel):
    """One probability for every whole 512 samples; what is left over at the end is not judged."""

    def setup(self, _: Mapping[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(NETWORK), options, providers=["CPUExecutionProvider"])

    def answer(self, inputs: Arrays) -> Arrays:
        return {"speech_probs": np.stack([self.judge(samples) for samples in inputs["audio"]])}

    def judge(self, samples: np.ndarray) -> np.ndarray:
        """[samples] -> [windows], from a fresh state: rows know nothing of one another."""
        windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
        if not len(windows):
            return np.empty(0, np.float32)
        before = np.concatenate([np.zeros((1, CONTEXT), np.float32), windows[:-1, -CONTEXT:]])
        feed = {
            "input": np.concatenate([before, windows], axis=1),
            "h": np.zeros(STATE, np.float32),
            "c": np.zeros(STATE, np.float32),
        }
        return self.session.run(["speech_probs"], feed)[0].reshape(-1)
