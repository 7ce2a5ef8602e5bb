"""A stand-in for TensorRT-LLM's older `multimodal_encoders`: an embedding a patch, which is the patch's mean."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import numpy as np

from testbed.backend import Arrays, Model


class TritonPythonModel(Model):
    """A request's images have one size."""

    def answer(self, inputs: Arrays) -> Arrays:
        patches, grids = inputs["pixel_values"], inputs["image_grid_thw"]
        if patches.shape[1:3] != (1, 1) or any(patches.shape[3] != grid.prod() for grid in grids):
            raise ValueError(f"patches {patches.shape} are not those of grids {grids.tolist()}")
        means = patches[:, 0, 0].astype(np.float32).mean(axis=-1, keepdims=True)
        sizes = np.full((len(grids), 1), patches.shape[3], np.int32)
        return {"OUT_PROMPT_EMBEDDING_TABLE": means, "OUT_PROMPT_VOCAB_SIZE": sizes}
