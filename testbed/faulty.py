"""A recipe whose pictures misbehave: the first pixel's red says how, so that a test sends the fault as media.

It stands in for a codec with a hole in it, which no codec at hand has. Worker processes import it by name.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidecar.media import (
    DataType,
    DecodeTarget,
    Frames,
    ImageInfo,
    MediaInfo,
    Modality,
    Pixels,
    Shaped,
    TensorSpec,
    Workload,
)

GOOD, SEGFAULT, KILLED, EXITS, HANGS, HANGS_HOLDING_THE_LOCK, WAITS, TOILS, READS_A_FILE, RUNS_A_PROGRAM = (
    range(10)
)


@dataclass(frozen=True)
class Faulty:
    """Leaves the picture as it is, or does what its first pixel says. WAITS: until `gate` exists; TOILS: 30 CPU-ms."""

    gate: str = ""
    processor: str = "Faulty"
    modality: Modality = Modality.IMAGE
    reference: str = "none"
    exact: bool = True
    steps: tuple[str, ...] = ()
    outputs: tuple[TensorSpec, ...] = (TensorSpec("pixels", DataType.UINT8, (-1, -1, 3)),)

    def decode_target(self, _info: MediaInfo) -> DecodeTarget:
        return DecodeTarget()

    def tokens(self, _info: MediaInfo) -> int | None:
        return None

    def accepts(self, output: str, data_type: DataType) -> bool:
        return (output, data_type) == ("pixels", DataType.UINT8)

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        assert isinstance(info, ImageInfo)  # noqa: S101 - only pictures are sent
        return dict.fromkeys(data_types, 3 * info.width * info.height)

    def workload(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Workload:
        nbytes = sum(self.output_bytes(info, data_types).values())
        return Workload(self.processor, elements=nbytes, nbytes=nbytes)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        assert isinstance(frames, Pixels)  # noqa: S101
        _misbehave(int(frames.array[0, 0, 0]), Path(self.gate))
        return (Shaped.of("pixels", np.array(frames.array)),)


def _misbehave(how: int, gate: Path) -> None:  # noqa: C901 - a fault a line
    match how:
        case 1:
            ctypes.string_at(0)
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            os._exit(3)
        case 4:
            time.sleep(3600)
        case 5:
            re.match(r"(a+)+b", "a" * 64)
        case 6:
            while not gate.exists():
                time.sleep(0.005)
        case 7:
            ends = time.thread_time() + 0.03
            while time.thread_time() < ends:
                pass
        case 8:
            Path("/etc/passwd").read_bytes()
        case 9:
            os.execv("/bin/true", ["true"])  # noqa: S606 - what it stands in for would run another
        case _:
            pass
