"""A pod of two containers on any engine: the real Triton, and the sidecar's image beside it, locked down.

Triton's container holds what a pod's containers share, the network's namespace and /dev/shm, and the others join it. It
has no network but its loopback, so nothing here needs one, or a port of the machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.image.engine import Engine

PROJECT = Path(__file__).parents[2]
TRITON_READY = "Started GRPCInferenceService"
TRITON_S = 120.0
START_S = 120.0
SHM = "512m"
SETTINGS = """\
server:
  listen: ["0.0.0.0:50051"]
metrics:
  listen: "0.0.0.0:9400"
triton: 127.0.0.1:8001
arena:
  access: group
models:
  ocr: {recipe: /checkpoints/ocr}
  vad: {recipe: /checkpoints/vad}
  clip: {recipe: /checkpoints/clip-vit-base-patch32, upstream: checksum_fp32}
  whisper: {recipe: /checkpoints/whisper-tiny, upstream: checksum_mel80}
  slow: {recipe: /checkpoints/clip-vit-base-patch32}
"""
# What docs/image.md tells everyone to run it with.
LOCKED = (
    "--read-only",
    "--user=10001:10001",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=256",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=16m",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the sidecar's container gets: a quota in cores, CPUs by number as the engine takes them, memory in MiB."""

    quota: float
    cpus: str
    memory_mib: int = 1024

    @classmethod
    def of_this_machine(cls) -> Limits:
        """A quota below a cpuset, and a cpuset below the machine, so that each can be told from the others."""
        cpus = sorted(os.sched_getaffinity(0))
        many = 3  # from here on two can be taken and one is left
        return cls(1.5, f"{cpus[-2]},{cpus[-1]}") if len(cpus) >= many else cls(0.75, str(cpus[-1]))

    @property
    def cpu_count(self) -> int:
        return self.cpus.count(",") + 1

    def __str__(self) -> str:
        return f"{self.quota:g} cores of {self.cpu_count} CPU{'s' if self.cpu_count > 1 else ''}"

    def flags(self) -> list[str]:
        """Memory without swap beside it, so that the limit is the limit."""
        memory = f"{self.memory_mib}m"
        return [
            f"--cpus={self.quota}",
            f"--cpuset-cpus={self.cpus}",
            f"--memory={memory}",
            f"--memory-swap={memory}",
        ]


class Pod:
    """`triton` and `sidecar` are the names of its containers."""

    def __init__(self, engine: Engine, image: str, neighbour: str, folder: Path) -> None:
        self._engine = engine
        self._image = image
        self._config = folder / "config.yaml"
        self._config.write_text(SETTINGS)
        self._config.chmod(0o644)
        self.triton = engine.start(
            "triton", "--network=none", "--ipc=shareable", f"--shm-size={SHM}", neighbour
        )
        self.sidecar = ""
        engine.says(self.triton, TRITON_READY, TRITON_S)

    def start(self, role: str, limits: Limits | None) -> float:
        """The sidecar beside Triton, without limits for None; seconds from its start until it serves."""
        self.sidecar = self._engine.start(
            role,
            *LOCKED,
            *(limits.flags() if limits else ()),
            f"--network=container:{self.triton}",
            f"--ipc=container:{self.triton}",
            f"--volume={self._config}:/etc/sidecar/config.yaml:ro",
            f"--volume={PROJECT / 'testbed' / 'checkpoints'}:/checkpoints:ro",
            self._image,
        )
        return self._engine.says(self.sidecar, "serving on", START_S)

    def agent(self, *arguments: str) -> list[str]:
        """Arguments for the engine's `run`: `agent.py` in the pod, from the sidecar's own image."""
        return [
            f"--network=container:{self.triton}",
            f"--volume={PROJECT / 'tests' / 'image'}:/agent:ro",
            f"--volume={PROJECT / 'tests' / 'corpus'}:/corpus:ro",
            f"--volume={PROJECT / 'testbed' / 'media'}:/media:ro",
            "--read-only",
            "--entrypoint=/opt/venv/bin/python",
            self._image,
            "/agent/agent.py",
            *arguments,
        ]
