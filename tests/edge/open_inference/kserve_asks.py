"""What KServe's own client is told, as JSON: run by an interpreter that has it, which the tests' own has not.

python kserve_asks.py ADDRESS MEDIA-MODEL PICTURE
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import grpc
import numpy as np
from kserve import (  # type: ignore[import-not-found]  # in an environment of its own
    InferenceGRPCClient,
    InferInput,
    InferRequest,
)


def _given(name: str, array: np.ndarray, datatype: str) -> InferInput:
    given = InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=True)
    return given


async def _asked(address: str, model: str, picture: bytes) -> dict[str, object]:
    client = InferenceGRPCClient(address)
    tensors = [
        _given("text", np.array([b"a", b"bc"], object), "BYTES"),
        _given("numbers", np.arange(3, dtype=np.float32), "FP32"),
    ]
    told: dict[str, object] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": await client.is_model_ready("echo"),
    }
    answer = await client.infer(InferRequest("echo", tensors, request_id="7"))
    told["tensors"] = (
        answer.id,
        [output.as_numpy().tolist() for output in answer.outputs if output.name == "numbers"],
    )
    try:
        await client.infer(InferRequest("nobody", tensors))
    except grpc.RpcError as error:
        told["error"] = (error.code().name, error.details())
    if model:
        files = _given("image", np.array([[picture]], object), "BYTES")
        answer = await client.infer(InferRequest(model, [files]))
        told["media"] = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    await client.close()
    return told


if __name__ == "__main__":
    address, model, picture = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(_asked(address, model, Path(picture).read_bytes()))))
