"""CLIP's preprocessing as a model of Triton's Python backend; the model's configuration says which mode.

`image` BYTES [1] to `pixel_values` FP32 [3, 224, 224], which the ensemble hands to the sink.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb  # type: ignore[import-not-found] # exists inside the backend alone


class TritonPythonModel:
    """Prepares what an execution brings, one picture after the other; instances run side by side."""

    def initialize(self, args: Mapping[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        # Folders to import from, the first first: pillow-simd where it is measured, and this checkout.
        sys.path[:0] = json.loads(parameters["path"]["string_value"])
        from bench.servers.preprocess import prepare  # noqa: PLC0415 - only now is it on the path

        self.prepare, self.mode = prepare, parameters["mode"]["string_value"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request."""
        return [pb.InferenceResponse([pb.Tensor("pixel_values", self.answer(each))]) for each in requests]

    def answer(self, request: Any) -> Any:  # noqa: ANN401 - the backend's
        (data,) = pb.get_input_tensor_by_name(request, "image").as_numpy().ravel()
        return self.prepare(data, self.mode)[None]
