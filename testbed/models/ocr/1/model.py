"""Reads a line of text from an image: the recognition network that rapidocr-onnxruntime carries."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

from collections.abc import Mapping

import numpy as np
import onnxruntime

from testbed.backend import WHEELS, Arrays, RowModel

NETWORK = WHEELS / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_rec_infer.onnx"


class TritonPythonModel(RowModel):
    """`text` is the greedy reading, `confidence` the mean probability of its characters (0 if none)."""

    def setup(self, _: Mapping[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(NETWORK), options, providers=["CPUExecutionProvider"])
        characters = self.session.get_modelmeta().custom_metadata_map["character"].splitlines()
        # Class 0 is CTC's blank; the space comes last and is not in the file's list.
        self.characters = ["", *characters, " "]

    def answer(self, inputs: Arrays) -> Arrays:
        blue_first = np.ascontiguousarray(inputs["pixel_values"][:, ::-1])
        (probabilities,) = self.session.run(None, {self.session.get_inputs()[0].name: blue_first})
        read = [self.decode(row) for row in probabilities]
        return {
            "text": np.array([[text.encode()] for text, _ in read], object),
            "confidence": np.array([[confidence] for _, confidence in read], np.float32),
        }

    def decode(self, row: np.ndarray) -> tuple[str, float]:
        """CTC's greedy decoding of [steps, classes]: repetitions count once, blanks separate."""
        best = row.argmax(axis=1)
        kept = (best != 0) & (best != np.concatenate([[0], best[:-1]]))
        text = "".join(self.characters[index] for index in best[kept])
        return text, float(row.max(axis=1)[kept].mean()) if kept.any() else 0.0
