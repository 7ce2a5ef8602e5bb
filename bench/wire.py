"""Requests of Triton's protocol as bytes, for benchmarks that send the same ones again and again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

TICKER = "ticker"


def laid_infer(model: str, name: str, array: npt.NDArray[np.float32]) -> bytes:
    """An inference with one FP32 input."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    laid: bytes = request.SerializeToString()
    return laid


def laid_tick(count: int, delay_ms: float, heard: Path | None = None) -> bytes:
    """A request to the testbed's ticker."""
    request = service_pb2.ModelInferRequest(model_name=TICKER)
    given: list[tuple[str, str, bytes]] = [
        ("count", "INT32", np.int32(count).tobytes()),
        ("delay_ms", "FP32", np.float32(delay_ms).tobytes()),
    ]
    if heard is not None:
        path = str(heard).encode()
        given.append(("heard", "BYTES", len(path).to_bytes(4, "little") + path))
    for name, datatype, data in given:
        request.inputs.add(name=name, datatype=datatype, shape=[1])
        request.raw_input_contents.append(data)
    laid: bytes = request.SerializeToString()
    return laid


@dataclass(frozen=True, slots=True)
class Tick:
    """A response of the ticker: when it was sent, by the monotonic clock, 0 for one that is empty."""

    sent_ns: int

    @classmethod
    def read(cls, event: Any) -> Tick:  # noqa: ANN401 - what gRPC gives: bytes
        """Raises RuntimeError where it tells of an error."""
        message = service_pb2.ModelStreamInferResponse.FromString(event)
        if message.error_message:
            raise RuntimeError(message.error_message)
        raw = message.infer_response.raw_output_contents
        return cls(int(np.frombuffer(raw[0], np.int64)[0]) if raw else 0)
