"""KServe's model server with CLIP's preprocessing in it; arguments: HTTP_PORT GRPC_PORT WORKERS THREADS.

`predict` hands each picture to a pool of threads, because KServe calls it on its event loop. With one worker
load comes over gRPC; more workers are processes that KServe gives to its HTTP server only.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # type: ignore[import-not-found]

from bench.servers.preprocess import MODES, prepare, summary


class Clip(Model):  # type: ignore[misc] # Any, where kserve is not installed
    """`image`, UINT8 [bytes] or in base64 as BYTES [1], to `summary` FP32."""

    def __init__(self, mode: str, threads: int) -> None:
        super().__init__(mode)
        self.mode = mode
        self.threads = threads
        self.pool: ThreadPoolExecutor | None = None
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:  # noqa: ANN401 - headers
        """Prepares the picture on the pool, made by the process that uses it."""
        self.pool = self.pool or ThreadPoolExecutor(self.threads)
        image = payload.inputs[0]
        data = base64.b64decode(image.data[0]) if image.datatype == "BYTES" else image.as_numpy().tobytes()
        found = await asyncio.get_running_loop().run_in_executor(self.pool, self.answer, data)
        output = InferOutput(name="summary", shape=list(found.shape), datatype="FP32")
        output.set_data_from_numpy(found)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])

    def answer(self, data: bytes) -> Any:  # noqa: ANN401 - an array
        return summary(prepare(data, self.mode))


if __name__ == "__main__":
    http, grpc, workers, threads = map(int, sys.argv[1:])
    sys.argv[1:] = []  # KServe reads them too
    server = ModelServer(http_port=http, grpc_port=grpc, workers=workers, enable_grpc=workers == 1)
    server.start([Clip(mode, threads) for mode in MODES])
