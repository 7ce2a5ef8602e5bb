"""MLServer's custom runtime with CLIP's preprocessing in it; MLServer imports it by name from its folder."""

from __future__ import annotations

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput  # type: ignore[import-not-found]

from bench.servers.preprocess import prepare, summary


class Clip(MLModel):  # type: ignore[misc] # Any, where mlserver is not installed
    """`image` BYTES [1] to `summary` FP32; the model's name is the mode."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs in a process of MLServer's inference pool."""
        data = payload.inputs[0].data[0]
        found = summary(prepare(data, self.name))
        output = ResponseOutput(name="summary", shape=list(found.shape), datatype="FP32", data=found.tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
