"""What a client of Triton's may ask, as NVIDIA's own client asks it: a list, for whoever speaks that API to be held to.

Every call gives plain values, or the status and the words that it ends with, so that what one server answers can be
compared with what another does. All are about models without media (`echo`, `streamer`), and none leaves a trace.
It must never know which server it talks to.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton_client
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.utils import InferenceServerException, shared_memory

MODELS: Final = ("echo", "streamer")
"""Models of the testbed that the server must have."""
_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that is asked. `kind` is the part of the API; `ask` is given a client, or `address` where it makes its
    own.
    """

    kind: str
    what: str
    ask: Callable[[Any], object]
    by_address: bool = False

    def outcome(self, address: str) -> object:
        """What it gives at the server of that address, or how it ends."""
        try:
            if self.by_address:
                return self.ask(address)
            with Client(address) as client:
                return self.ask(client)
        except InferenceServerException as error:
            return error.status(), error.message()


# --- inputs and answers ---


def numbers_of(*values: float) -> Any:  # noqa: ANN401 - the client has no types
    """The input `numbers`."""
    given = triton_client.InferInput("numbers", [len(values)], "FP32")
    return given.set_data_from_numpy(np.array(values, np.float32))


def _text_of(*texts: bytes) -> Any:  # noqa: ANN401 - as above
    given = triton_client.InferInput("text", [len(texts)], "BYTES")
    return given.set_data_from_numpy(np.array(texts, object))


def _inputs() -> list[Any]:
    return [_text_of(b"a", b"bc"), numbers_of(0, 1, 2)]


def echoed(client: Client, **more: Any) -> Any:  # noqa: ANN401 - as above
    """A call of the model that says back what it is told."""
    return client.infer("echo", _inputs(), **more)


def _response(result: Any) -> object:  # noqa: ANN401 - as above
    return result.get_response(as_json=True)


def _wanted(name: str, **more: Any) -> list[Any]:  # noqa: ANN401 - as above
    return [triton_client.InferRequestedOutput(name, **more)]


# --- calls that take more than a line ---


def _async_infer(client: Client) -> object:
    came: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.async_infer("echo", _inputs(), callback=lambda result, error: came.put((result, error)))
    result, error = came.get(timeout=_PATIENCE_S)
    return str(error) if error else _response(result)


def _asyncio(address: str) -> object:
    async def ask() -> object:
        async with triton_aio.InferenceServerClient(address) as client:
            results = await asyncio.gather(
                *(client.infer("echo", [_text_of(b"a"), numbers_of(number)]) for number in range(8))
            )
        return [result.as_numpy("numbers").tolist() for result in results]

    return asyncio.run(ask())


def _asyncio_stream(address: str) -> object:
    async def requests() -> Any:  # noqa: ANN401 - an asynchronous generator
        for number in range(3):
            yield {"model_name": "echo", "inputs": [_text_of(b"a"), numbers_of(number)]}

    async def ask() -> object:
        async with triton_aio.InferenceServerClient(address) as client:
            events = client.stream_infer(requests())
            return [(result.as_numpy("numbers").tolist(), error) async for result, error in events]

    return asyncio.run(ask())


def _streamed(asks: Sequence[Callable[[Client], None]], **more: Any) -> Callable[[Client], object]:  # noqa: ANN401
    """Requests on one stream, and what comes of each until the last has its answer."""

    def ask(client: Client) -> object:
        came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(callback=lambda result, error: came.put((result, error)), **more)
        outcomes: list[object] = []
        for each in asks:
            each(client)
            while True:
                result, error = came.get(timeout=_PATIENCE_S)
                if error is not None:
                    outcomes.append((error.status(), error.message()))
                    break
                response = result.get_response()
                outcomes.append(_told(result))
                if response.model_name == "echo" or response.parameters["triton_final_response"].bool_param:
                    break
        client.stop_stream()
        return outcomes

    return ask


def _told(result: Any) -> object:  # noqa: ANN401 - as above
    response = result.get_response()
    final = {name: value.bool_param for name, value in response.parameters.items()}
    names = [output.name for output in response.outputs]
    return response.id, response.model_name, final, [result.as_numpy(name).tolist() for name in names]


def _stream_echo(client: Client) -> None:
    client.async_stream_infer("echo", _inputs(), request_id="1")


def _stream_nobody(client: Client) -> None:
    client.async_stream_infer("nobody", [], request_id="2")


def _stream_tokens(client: Client) -> None:
    pixels = triton_client.InferInput("pixel_values", [1, 3, 224, 224], "FP32")
    pixels.set_data_from_numpy(np.zeros((1, 3, 224, 224), np.float32))
    count = triton_client.InferInput("count", [1], "INT32").set_data_from_numpy(np.array([3], np.int32))
    client.async_stream_infer("streamer", [pixels, count], request_id="3", enable_empty_final_response=True)


def _counted(client: Client) -> object:
    """What is counted of a model, once an inference has been; Triton counts it after it has answered."""

    def told() -> Any:  # noqa: ANN401 - as above
        (stats,) = client.get_inference_statistics("echo").model_stats
        return stats.inference_stats

    before = told().success.count
    echoed(client)
    gives_up = time.monotonic() + _PATIENCE_S
    while (stats := told()).success.count <= before and time.monotonic() < gives_up:
        pass
    return stats.success.count > before, sorted(field.name for field, _ in stats.ListFields())


@contextmanager
def region(client: Client, name: str, size: int) -> Iterator[Any]:
    """A region of shared memory that the client has registered."""
    made = shared_memory.create_shared_memory_region(name, f"/{name}", size)
    try:
        client.register_system_shared_memory(name, f"/{name}", size)
        yield made
    finally:
        client.unregister_system_shared_memory(name)
        shared_memory.destroy_shared_memory_region(made)


def _by_shared_memory(client: Client) -> object:
    with region(client, "calls-in", 64) as one, region(client, "calls-out", 64) as other:
        shared_memory.set_shared_memory_region(one, [np.arange(4, dtype=np.float32)])
        given = triton_client.InferInput("numbers", [4], "FP32")
        given.set_shared_memory("calls-in", 16)
        (wanted,) = _wanted("numbers")
        wanted.set_shared_memory("calls-out", 64)
        told = _response(client.infer("echo", [given, _text_of(b"a")], outputs=[wanted]))
        return told, shared_memory.get_contents_as_numpy(other, np.float32, [4]).tolist()


def _status(client: Client) -> object:
    with region(client, "calls-status", 64):
        return client.get_system_shared_memory_status("calls-status", as_json=True)


def _unknown_region(client: Client) -> object:
    given = triton_client.InferInput("numbers", [4], "FP32")
    given.set_shared_memory("calls-nowhere", 16)
    return _response(client.infer("echo", [given, _text_of(b"a")]))


def _trace(client: Client) -> object:
    try:
        return client.update_trace_settings("echo", {"trace_rate": "500"}, as_json=True)
    finally:
        client.update_trace_settings("echo", {"trace_rate": None})


def _wrong_type(client: Client) -> object:
    given = triton_client.InferInput("numbers", [1], "INT32").set_data_from_numpy(np.array([1], np.int32))
    return _response(client.infer("echo", [_text_of(b"a"), given]))


def _wrong_shape(client: Client) -> object:
    given = triton_client.InferInput("numbers", [1, 1], "FP32")
    given.set_data_from_numpy(np.zeros((1, 1), np.float32))
    return _response(client.infer("echo", [_text_of(b"a"), given]))


def _twice(client: Client) -> object:
    with region(client, "calls-twice", 64):
        return client.register_system_shared_memory("calls-twice", "/calls-twice", 64)


CALLS: Final[tuple[Call, ...]] = (
    Call("health", "the server is live", lambda client: client.is_server_live()),
    Call("health", "the server is ready", lambda client: client.is_server_ready()),
    Call("health", "a model is ready", lambda client: client.is_model_ready("echo")),
    Call("health", "a version of a model is ready", lambda client: client.is_model_ready("echo", "1")),
    Call("health", "a model that is not there is not ready", lambda client: client.is_model_ready("nobody")),
    Call("metadata", "the server's metadata", lambda client: client.get_server_metadata(as_json=True)),
    Call("metadata", "a model's metadata", lambda client: client.get_model_metadata("echo", as_json=True)),
    Call("metadata", "of a model that is not there", lambda client: client.get_model_metadata("nobody")),
    Call(
        "metadata", "of a version that is not there", lambda client: client.get_model_metadata("echo", "99")
    ),
    Call("config", "a model's configuration", lambda client: client.get_model_config("echo", as_json=True)),
    Call("config", "of a model that is not there", lambda client: client.get_model_config("nobody")),
    Call(
        "repository",
        "the index",
        lambda client: sorted(
            model["name"] for model in client.get_model_repository_index(as_json=True)["models"]
        ),
    ),
    Call("repository", "loading what cannot be loaded", lambda client: client.load_model("nobody")),
    Call("repository", "unloading what is not there", lambda client: client.unload_model("nobody")),
    Call("infer", "tensors in and out", lambda client: _response(echoed(client))),
    Call(
        "infer",
        "an id and a parameter",
        lambda client: _response(echoed(client, request_id="7", parameters={"mine": 3})),
    ),
    Call("infer", "one output of two", lambda client: _response(echoed(client, outputs=_wanted("numbers")))),
    Call(
        "infer",
        "classes",
        lambda client: echoed(client, outputs=_wanted("numbers", class_count=2)).as_numpy("numbers").tolist(),
    ),
    Call(
        "infer",
        "priority and timeout",
        lambda client: _response(echoed(client, priority=1, timeout=1_000_000)),
    ),
    Call(
        "infer",
        "a sequence",
        lambda client: [
            _response(echoed(client, sequence_id=5, sequence_start=place == 0, sequence_end=place == 1))
            for place in range(2)
        ],
    ),
    Call("infer", "a version", lambda client: _response(echoed(client, model_version="1"))),
    Call(
        "infer", "metadata of one's own", lambda client: _response(echoed(client, headers={"mine": "here"}))
    ),
    Call("infer", "gzip", lambda client: _response(echoed(client, compression_algorithm="gzip"))),
    Call("infer", "deflate", lambda client: _response(echoed(client, compression_algorithm="deflate"))),
    Call("async infer", "a callback", _async_infer),
    Call("async infer", "asyncio, eight at once", _asyncio, by_address=True),
    Call("stream", "requests in their order", _streamed([_stream_echo, _stream_echo])),
    Call("stream", "tokens, and that the last one was it", _streamed([_stream_tokens])),
    Call("stream", "an error, and on", _streamed([_stream_nobody, _stream_echo])),
    Call("stream", "asyncio", _asyncio_stream, by_address=True),
    Call("statistics", "an inference counts", _counted),
    Call(
        "statistics",
        "of every model",
        lambda client: (
            {entry["name"] for entry in client.get_inference_statistics(as_json=True)["model_stats"]}
            >= {*MODELS}
        ),
    ),
    Call(
        "statistics", "of a model that is not there", lambda client: client.get_inference_statistics("nobody")
    ),
    Call("shared memory", "inputs and outputs", _by_shared_memory),
    Call("shared memory", "a region's status", _status),
    Call("shared memory", "a region twice", _twice),
    Call(
        "shared memory",
        "a key that is not there",
        lambda client: client.register_system_shared_memory("calls-none", "/calls-none", 64),
    ),
    Call("shared memory", "a region that nobody registered", _unknown_region),
    Call(
        "shared memory",
        "CUDA's regions",
        lambda client: client.get_cuda_shared_memory_status(as_json=True),
    ),
    Call("trace", "settings", lambda client: client.get_trace_settings(as_json=True)),
    Call("trace", "a model's settings, changed", _trace),
    Call("log", "settings", lambda client: client.get_log_settings(as_json=True)),
    Call(
        "log",
        "settings, changed",
        lambda client: client.update_log_settings({"log_verbose_level": 0}, as_json=True),
    ),
    Call("errors", "a model that is not there", lambda client: client.infer("nobody", [])),
    Call(
        "errors",
        "a version that is not there",
        lambda client: _response(echoed(client, model_version="99")),
    ),
    Call("errors", "an input too few", lambda client: client.infer("echo", [])),
    Call("errors", "an input of another type", _wrong_type),
    Call("errors", "an input of another shape", _wrong_shape),
    Call("errors", "an output that is not there", lambda client: echoed(client, outputs=_wanted("nothing"))),
    Call("errors", "a decoupled model without a stream", lambda client: client.infer("streamer", [])),
)
"""All of them, by kind."""
