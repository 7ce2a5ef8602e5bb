"""Who is compared: how each is started as a careful user runs it, and how load reaches it. A table.

All prepare pictures in two modes, by the model's name: "exact", and "scaled", which has the JPEG decoder leave
out what the resize would average away. Each has variants, among which its best is chosen by measuring.
The peers run in environments of their own (`scripts/peers.sh`) with what `CAREFUL_ENVIRONMENT` says.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from bench.channel import grpc_calls, http_calls, http_request
from bench.load import Call
from bench.processes import CAREFUL_ENVIRONMENT, PROJECT, free_ports, listens, says_yes, server
from bench.servers.preprocess import MODES, SIDE
from bench.sidecars import CHECKPOINT, INFER, Workers, sidecar
from bench.sinks import SINK, write_sink
from inference_client import AsyncClient
from inference_client.calls import Calls
from sidecar.media import DataType, Tensor
from sidecar.stages.deliver import upstream, wire
from testbed.install import installed
from testbed.triton import Triton

HOME = PROJECT / ".venv-peers"
SIMD = HOME / "simd"
"""A folder with pillow-simd's PIL in it, which goes before others on the path."""

V2_INFER = f"{wire.SERVICE}ModelInfer"

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Route:
    """One way to ask: a picture to a request's bytes, a connection for requests, an answer's bytes to values."""

    lay: Callable[[bytes], bytes]
    connect: Callable[[Sequence[bytes]], AbstractAsyncContextManager[Call]]
    read: Callable[[bytes], Values]


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that is up: the roots of its trees of processes, its routes by mode, how it was started.

    `measured` is the route that bears the load. `checked` is the one by which its work is looked at before:
    its values are the whole tensor, or the `summary` of one.
    """

    roots: Sequence[int]
    measured: Mapping[str, Route]
    checked: Mapping[str, Route]
    command: str


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the table: its lock and environment ("" for ours), and how each variant of it is started,
    given whether pillow-simd takes Pillow's place.
    """

    name: str
    package: str
    variants: Mapping[str, Callable[[bool], AbstractContextManager[Running]]]

    @property
    def is_there(self) -> bool:
        """Whether its environment could be made."""
        return not self.package or (HOME / self.package / "bin" / "python").exists()


def _v2_route(address: str, model: str, data_type: DataType) -> Route:
    """A model of the KServe v2 protocol over gRPC: one input `image`, one output of whatever name."""

    def lay(data: bytes) -> bytes:
        shape: tuple[int, ...] = (1, 1)
        if data_type is DataType.BYTES:
            data = len(data).to_bytes(4, "little") + data
        else:
            shape = (len(data),)
        return wire.lay_request(upstream.Call(model, (Tensor("image", data_type, shape, data),))).message

    def read(answer: bytes) -> Values:
        (output,) = wire.read_answer(answer, upstream.Call(model, ())).outputs
        return np.frombuffer(output.data, output.data_type.storage).astype(np.float32)

    return Route(lay, partial(grpc_calls, address, V2_INFER), read)


# --- ours ---------------------------------------------------------------------------------------


@contextmanager
def _sidecar(processes: int, _: bool) -> Iterator[Running]:
    """The sidecar in front of a Triton with the sink; both are counted."""
    with TemporaryDirectory() as folder:
        write_sink(Path(folder), installed())
        with Triton.start(repository=Path(folder)) as triton:
            models = {
                mode: {
                    "recipe": str(CHECKPOINT),
                    "upstream": SINK,
                    "mode": "fast" if mode == "scaled" else "exact",
                }
                for mode in MODES
            }
            with sidecar(Workers(processes, processes), models, triton.grpc_address) as running:
                yield Running(
                    (running.pid, triton.pid),
                    {mode: _own_route(running.address, mode) for mode in MODES},
                    {mode: _own_check(running.address, mode) for mode in MODES},
                    f"sidecar serve --set workers.processes={processes} --set threads.image={processes}",
                )


def _own_route(address: str, mode: str) -> Route:
    made = Calls(upload_threshold=2**30)

    def lay(data: bytes) -> bytes:
        return made.infer(mode, data, None).request.SerializeToString()

    return Route(lay, partial(grpc_calls, address, INFER), _not_read)


def _own_check(address: str, mode: str) -> Route:
    @asynccontextmanager
    async def connect(requests: Sequence[bytes]) -> AsyncIterator[Call]:
        async with AsyncClient(address) as client:

            async def call(number: int) -> bytes:
                prepared = await client.preprocess(mode, requests[number])
                return prepared.tensor("pixel_values").tobytes()

            yield call

    return Route(bytes, connect, lambda answer: np.frombuffer(answer, np.float32))


def _not_read(_: bytes) -> Values:
    raise NotImplementedError("this route's answers are a model's, and say nothing of the pixels")


# --- Triton -------------------------------------------------------------------------------------

_PREPROCESS = """\
backend: "python"
max_batch_size: 1
input [ {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "pixel_values" data_type: TYPE_FP32 dims: [ 3, {side}, {side} ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters [
  {{ key: "mode" value: {{ string_value: "{mode}" }} }},
  {{ key: "path" value: {{ string_value: {path} }} }}
]
"""
_ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 1
input [ {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "bytes" data_type: TYPE_INT64 dims: [ 1 ] }} ]
ensemble_scheduling {{ step [
  {{ model_name: "preprocess_{mode}" model_version: -1
     input_map {{ key: "image" value: "image" }} output_map {{ key: "pixel_values" value: "pixels" }} }},
  {{ model_name: "sink" model_version: -1
     input_map {{ key: "pixel_values" value: "pixels" }} output_map {{ key: "bytes" value: "bytes" }} }}
] }}
"""


@contextmanager
def _triton(instances: int, simd: bool) -> Iterator[Running]:
    """An ensemble of a Python preprocessor and the sink, in the real Triton."""
    found = replace(installed(), python_bin=HOME / "triton" / "bin")
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        write_sink(repository, found)
        # A string in a string: pbtxt escapes as JSON does.
        path = json.dumps(json.dumps([*([str(SIMD)] if simd else []), str(PROJECT)]))
        code = (PROJECT / "bench" / "servers" / "triton_model.py").read_text()
        for mode in MODES:
            written = {"mode": mode, "instances": instances, "side": SIDE, "path": path}
            for name, config in {f"preprocess_{mode}": _PREPROCESS, f"ensemble_{mode}": _ENSEMBLE}.items():
                version = repository / name / "1"
                version.mkdir(parents=True)
                (version.parent / "config.pbtxt").write_text(config.format(**written))
            (repository / f"preprocess_{mode}" / "1" / "model.py").write_text(code)
        with Triton.start(repository=repository, installation=found) as triton:

            def routes(prefix: str) -> dict[str, Route]:
                return {
                    mode: _v2_route(triton.grpc_address, f"{prefix}_{mode}", DataType.BYTES) for mode in MODES
                }

            yield Running(
                (triton.pid,),
                routes("ensemble"),
                routes("preprocess"),
                f"tritonserver with an ensemble of bench/servers/triton_model.py (count: {instances}) and a sink",
            )


# --- Python servers -----------------------------------------------------------------------------


def _environment(simd: bool) -> dict[str, str]:
    path = [*([str(SIMD)] if simd else []), str(PROJECT)]
    return {**CAREFUL_ENVIRONMENT, "PYTHONPATH": ":".join(path)}


def _python(package: str) -> str:
    return str(HOME / package / "bin" / "python")


@contextmanager
def _kserve_threads(threads: int, simd: bool) -> Iterator[Running]:
    """KServe's gRPC server in one process, pictures on threads."""
    http, grpc = free_ports(2)
    command = [_python("kserve"), "-m", "bench.servers.kserve_server", *map(str, (http, grpc, 1, threads))]
    with server(command, lambda: listens(grpc) and listens(http), environment=_environment(simd)) as process:
        routes = {mode: _v2_route(f"127.0.0.1:{grpc}", mode, DataType.UINT8) for mode in MODES}
        yield Running(
            (process.pid,),
            routes,
            routes,
            f"python -m bench.servers.kserve_server HTTP_PORT GRPC_PORT 1 {threads}",
        )


@contextmanager
def _kserve_processes(processes: int, simd: bool) -> Iterator[Running]:
    """KServe's HTTP server in several processes, which its gRPC server cannot be.

    Pictures go as base64: of the protocol's binary form KServe makes a list of numbers, 80 CPU-ms a picture.
    """
    http, grpc = free_ports(2)
    command = [_python("kserve"), "-m", "bench.servers.kserve_server", *map(str, (http, grpc, processes, 1))]
    ready = partial(says_yes, http, "/v2/health/ready")
    with server(command, ready, environment=_environment(simd)) as process:

        def lay(mode: str, data: bytes) -> bytes:
            encoded = base64.b64encode(data).decode()
            tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [encoded]}
            body = json.dumps({"id": "0", "inputs": [tensor]}).encode()
            return http_request(f"/v2/models/{mode}/infer", body, [("Content-Type", "application/json")])

        def read(answer: bytes) -> Values:
            return np.array(json.loads(answer)["outputs"][0]["data"], np.float32)

        routes = {mode: Route(partial(lay, mode), partial(http_calls, http), read) for mode in MODES}
        yield Running(
            (process.pid,),
            routes,
            routes,
            f"python -m bench.servers.kserve_server HTTP_PORT GRPC_PORT {processes} 1",
        )


@contextmanager
def _mlserver(processes: int, simd: bool) -> Iterator[Running]:
    """MLServer's gRPC server and its pool of processes (0: none)."""
    http, grpc, metrics = free_ports(3)
    with TemporaryDirectory() as folder:
        settings = {
            "host": "127.0.0.1",
            "http_port": http,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "parallel_workers": processes,
            "environments_dir": f"{folder}/environments",
            "metrics_dir": f"{folder}/metrics",
            "debug": False,
        }
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        for mode in MODES:
            place = Path(folder) / mode
            place.mkdir()
            model = {"name": mode, "implementation": "bench.servers.mlserver_runtime.Clip"}
            (place / "model-settings.json").write_text(json.dumps(model))
        command = [_python("mlserver"), "-m", "mlserver.cli.main", "start", folder]
        ready = partial(says_yes, http, "/v2/health/ready")
        with server(command, ready, environment=_environment(simd)) as process:
            routes = {mode: _v2_route(f"127.0.0.1:{grpc}", mode, DataType.BYTES) for mode in MODES}
            yield Running(
                (process.pid,), routes, routes, f"mlserver start FOLDER, with parallel_workers: {processes}"
            )


@contextmanager
def _litserve(workers: int, simd: bool) -> Iterator[Running]:
    """LitServe's HTTP server and its worker processes."""
    (port,) = free_ports(1)
    command = [_python("litserve"), "-m", "bench.servers.litserve_server", str(port), str(workers)]
    ready = partial(says_yes, port, "/health")
    with server(command, ready, environment=_environment(simd)) as process:

        def read(answer: bytes) -> Values:
            return np.array(json.loads(answer)["summary"], np.float32)

        routes = {
            mode: Route(partial(http_request, f"/{mode}"), partial(http_calls, port), read) for mode in MODES
        }
        yield Running(
            (process.pid,), routes, routes, f"python -m bench.servers.litserve_server PORT {workers}"
        )


OURS = Contender("this sidecar", "", {"2 worker processes": partial(_sidecar, 2)})
PEERS = (
    Contender(
        "Triton ensemble", "triton", {"1 instance": partial(_triton, 1), "2 instances": partial(_triton, 2)}
    ),
    Contender(
        "KServe",
        "kserve",
        {
            "gRPC, 1 thread": partial(_kserve_threads, 1),
            "gRPC, 2 threads": partial(_kserve_threads, 2),
            "HTTP, 2 processes": partial(_kserve_processes, 2),
        },
    ),
    Contender(
        "LitServe", "litserve", {"1 worker": partial(_litserve, 1), "2 workers": partial(_litserve, 2)}
    ),
    Contender(
        "MLServer",
        "mlserver",
        {
            "no pool": partial(_mlserver, 0),
            "1 process": partial(_mlserver, 1),
            "2 processes": partial(_mlserver, 2),
        },
    ),
)
"""What a user would pick instead."""
