"""LitServe with CLIP's preprocessing in it; arguments: PORT WORKERS.

The body of a request is the file itself: of the ways that LitServe knows, the one that copies least.
"""

import sys
from typing import Annotated

import litserve  # type: ignore[import-not-found]
from fastapi import Depends, Request  # type: ignore[import-not-found]

from bench.servers.preprocess import MODES, prepare, summary


async def body(request: Request) -> bytes:
    """The request's body, as it came."""
    data: bytes = await request.body()
    return data


class Clip(litserve.LitAPI):  # type: ignore[misc] # Any, where litserve is not installed
    """A file to its summary."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> bytes:
        return request

    def predict(self, data: bytes) -> list[float]:
        """Runs in a worker process."""
        found: list[float] = summary(prepare(data, self.api_path.strip("/"))).tolist()
        return found

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"summary": output}


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    server = litserve.LitServer(
        [Clip(api_path=f"/{mode}") for mode in MODES],
        accelerator="cpu",
        devices=1,
        workers_per_device=workers,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False
    )
