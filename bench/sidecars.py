"""The sidecar as the benchmarks start it: which models, how many processes and threads. A table, and no more.

Everything else is left at its default, so that what is measured is what a user gets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.sidecar import SidecarProcess, sidecar_process

CHECKPOINT = Path(__file__).parents[1] / "testbed" / "checkpoints" / "clip-vit-base-patch32"

PREPROCESS = "/multimodal.v1.Preprocessor/Preprocess"
INFER = "/multimodal.v1.Preprocessor/Infer"


@dataclass(frozen=True, slots=True)
class Workers:
    """Worker processes, 0 for threads of the server's own process; threads over all of them."""

    processes: int
    threads: int

    @property
    def settings(self) -> Mapping[str, str]:
        return {"workers.processes": str(self.processes), "threads.image": str(self.threads)}


def clip(folder: Path, side: int) -> Path:
    """A checkpoint in `folder` that is CLIP's own recipe at another side of its square."""
    keys = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    keys |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    place = folder / f"clip-{side}"
    place.mkdir()
    (place / "preprocessor_config.json").write_text(json.dumps(keys))
    return place


@contextmanager
def sidecar(
    workers: Workers, models: Mapping[str, Mapping[str, str]], triton: str, **settings: str
) -> Iterator[SidecarProcess]:
    """A sidecar with these models (their keys by name) in front of the Triton at that address."""
    # What is measured is the work; a few pictures that come again and again would be found in the cache.
    given = {
        "triton": triton,
        "log.level": "warning",
        "cache.enabled": "false",
        **workers.settings,
        **settings,
    }
    given |= {f"models.{name}.{key}": value for name, keys in models.items() for key, value in keys.items()}
    with sidecar_process(given) as running:
        yield running
