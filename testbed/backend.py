"""What the testbed's models share; runs inside Triton's Python backend, in the models' interpreter.

A model here is a function from the rows of one execution to its outputs: the requests that Triton
put together are stacked, the function runs once, and the rows are dealt out again. Models answer and
hold no state between executions; nothing here may need a library beyond numpy.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import triton_python_backend_utils as pb  # type: ignore[import-not-found] # exists inside the backend alone
from numpy.typing import NDArray

from testbed.checksum import checksum, crc32

# Where `python -m testbed.install` puts the wheels that carry ONNX files.
WHEELS = Path(__file__).resolve().parents[1] / ".triton" / "wheels"

Arrays = Mapping[str, NDArray[Any]]
Response = object


class Input(Protocol):
    """One input of a request; BYTES come as an object array of bytes."""

    def name(self) -> str: ...
    def as_numpy(self) -> NDArray[Any]: ...


class Sender(Protocol):
    """Where a decoupled model sends its responses, from any thread, until the final flag."""

    def send(self, response: Response | None = None, flags: int = 0) -> None: ...
    def is_cancelled(self) -> bool: ...


class Request(Protocol):
    """What the backend gives a model to answer."""

    def inputs(self) -> Sequence[Input]: ...
    def get_response_sender(self) -> Sender: ...


def inputs_of(request: Request) -> dict[str, NDArray[Any]]:
    """A request's inputs by name; an optional one that was left out is missing."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def response(outputs: Arrays) -> Response:
    """A response of these outputs."""
    return pb.InferenceResponse([pb.Tensor(name, array) for name, array in outputs.items()])


class Model(ABC):
    """One request at a time: `answer` gets whole inputs, as the client sent them."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by the backend once; `setup` is the models' own part."""
        config = json.loads(args["model_config"])
        self.setup({key: value["string_value"] for key, value in config.get("parameters", {}).items()})

    def setup(self, parameters: Mapping[str, str]) -> None:  # noqa: B027 - most models need none
        """Loads what the model needs; `parameters` are those of config.pbtxt."""

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Called by the backend with one or more requests; answers each."""
        return [response(self.answer(inputs_of(request))) for request in requests]

    @abstractmethod
    def answer(self, inputs: Arrays) -> Arrays:
        """The outputs for these inputs."""


class StreamingModel(ABC):
    """A decoupled model with a thread per request, so that a slow stream does not hold up the others."""

    def initialize(self, _: dict[str, str]) -> None:
        """Called by the backend once."""
        self.threads: set[threading.Thread] = set()

    def execute(self, requests: Sequence[Request]) -> None:
        """Called by the backend with one or more requests; begins to answer each."""
        self.threads = {thread for thread in self.threads if thread.is_alive()}
        for request in requests:
            work = (inputs_of(request), request.get_response_sender())
            thread = threading.Thread(target=self._answer, args=work)
            self.threads.add(thread)
            thread.start()

    def _answer(self, inputs: Arrays, sender: Sender) -> None:
        self.stream(inputs, sender)
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    @abstractmethod
    def stream(self, inputs: Arrays, sender: Sender) -> None:
        """Sends every response to these inputs, and ends when the caller has gone."""

    def finalize(self) -> None:
        """Called by the backend when the model is unloaded."""
        for thread in self.threads:
            thread.join()


class RowModel(Model):
    """All rows of an execution at once: `answer` gets every input stacked as [rows, ...]."""

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Stacks the requests' rows, answers them together and deals the outputs out again."""
        inputs = [inputs_of(request) for request in requests]
        stacked = {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
        outputs = self.answer(stacked)
        ends = np.cumsum([len(next(iter(each.values()))) for each in inputs])[:-1]
        dealt = {name: np.split(array, ends) for name, array in outputs.items()}
        return [response({name: parts[i] for name, parts in dealt.items()}) for i in range(len(requests))]


class ChecksumModel(RowModel):
    """Per row of its one input: `checksum` FP64 [2], `crc32` UINT32 [1], `batch_rows` INT32 [1]."""

    def answer(self, inputs: Arrays) -> Arrays:
        """`batch_rows` is how many rows ran together, the same number in each of them."""
        (rows,) = inputs.values()
        return {
            "checksum": np.array([checksum(row) for row in rows]),
            "crc32": np.array([[crc32(row)] for row in rows], np.uint32),
            "batch_rows": np.full((len(rows), 1), len(rows), np.int32),
        }
