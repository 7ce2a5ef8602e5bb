"""The emulated accelerator as the benchmark has it: its models for the real Triton, its controls, its records.

It is the testbed's native sink with a control beside it (testbed/native/sink.c says what the files hold), or a Python
model that does the same, where no compiler made that; `bench.sinks.kind` says which.
"""

from __future__ import annotations

import json
import mmap
import shutil
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.processes import PROJECT
from bench.sinks import kind
from testbed.install import Installation

_MODEL = PROJECT / "bench" / "servers" / "accelerator_model.py"
# Milliseconds an execution, milliseconds a row, and whether it hangs; when one began and ended, and its rows.
_CONTROL, _RECORD = struct.Struct("<ddd"), struct.Struct("<qqq")
_CONFIG = """\
backend: "{backend}"
max_batch_size: 16
input [ {{ name: "{input}" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
output [ {{ name: "bytes" data_type: TYPE_INT64 dims: [ 1 ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One emulated accelerator: a model in `repository`. `delay_us` is how long it waits for a batch to fill."""

    name: str
    input: str
    dims: str
    repository: Path
    delay_us: int = 0

    @property
    def _folder(self) -> Path:
        return self.repository / self.name

    def write(self, found: Installation) -> None:
        """Puts it into the repository; it takes no time as long as nobody says otherwise."""
        version = self._folder / "1"
        version.mkdir(parents=True)
        native = kind(found) == "native"
        if not native:
            shutil.copy(_MODEL, version / "model.py")
        (self._folder / "config.pbtxt").write_text(
            _CONFIG.format(
                backend="sink" if native else "python",
                input=self.input,
                dims=self.dims,
                delay_us=self.delay_us,
            )
        )
        (self._folder / "control").write_bytes(_CONTROL.pack(0.0, 0.0, 0.0))
        (self._folder / "record").touch()

    def take(self, base_ms: float, row_ms: float = 0.0, *, hang: bool = False) -> None:
        """Says how long executions take from now on; one that runs ends by what was said when it began."""
        with (
            (self._folder / "control").open("r+b") as file,
            mmap.mmap(file.fileno(), _CONTROL.size) as control,
        ):
            control[:] = _CONTROL.pack(base_ms, row_ms, float(hang))

    def executions(self) -> npt.NDArray[np.int64]:
        """Every execution so far, in order: int64 [n, 3] of began, ended, rows."""
        told = (self._folder / "record").read_bytes()
        whole = len(told) // _RECORD.size * _RECORD.size
        return np.frombuffer(told[:whole], "<i8").reshape(-1, 3).astype(np.int64)


def trace_flags(file: Path) -> tuple[str, ...]:
    """What a Triton is started with to write when it had each request; the file is complete once it has ended."""
    return (
        "--trace-config=rate=1",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=triton,file={file}",
    )


def accepted(file: Path) -> dict[str, npt.NDArray[np.int64]]:
    """By model, when Triton had read a request, and when its execution began, as its own trace tells: int64 [n, 2],
    in the order in which they came.
    """
    by_request: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for event in json.loads(file.read_text()):
        told = by_request[event["id"]]
        if "model_name" in event:
            told["model"] = event["model_name"]
        for stamp in event.get("timestamps", ()):
            told[stamp["name"]] = stamp["ns"]
    found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for told in by_request.values():
        if {"model", "GRPC_WAITREAD_END", "COMPUTE_START"} <= told.keys():
            found[told["model"]].append((told["GRPC_WAITREAD_END"], told["COMPUTE_START"]))
    return {model: np.array(sorted(times), np.int64) for model, times in found.items()}
