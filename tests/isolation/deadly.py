"""A recipe of the sidecar's own that media can kill: it stands in for a codec with a hole in it.

The first pixel's red says how the worker shall misbehave (`testbed.faulty`); any other picture is prepared
as ever. Worker processes import it by name when they are sent their first job, within its lease: it imports
nothing that they have not loaded but the faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.media import (
    DataType,
    DecodeTarget,
    Frames,
    MediaInfo,
    Modality,
    Pixels,
    Shaped,
    TensorSpec,
    Workload,
)
from sidecar.recipes.recipe import Recipe
from testbed.faulty import _misbehave


@dataclass(frozen=True)
class Deadly:
    """A recipe, and what pictures may do to it. WAITS ends when `gate` exists."""

    recipe: Recipe
    gate: str = ""

    @property
    def processor(self) -> str:
        return self.recipe.processor

    @property
    def modality(self) -> Modality:
        return self.recipe.modality

    @property
    def reference(self) -> str:
        return self.recipe.reference

    @property
    def exact(self) -> bool:
        return self.recipe.exact

    @property
    def steps(self) -> tuple[str, ...]:
        return self.recipe.steps

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.recipe.outputs

    def decode_target(self, info: MediaInfo) -> DecodeTarget:
        return self.recipe.decode_target(info)

    def tokens(self, info: MediaInfo) -> int | None:
        return self.recipe.tokens(info)

    def accepts(self, output: str, data_type: DataType) -> bool:
        return self.recipe.accepts(output, data_type)

    def workload(self, _info: MediaInfo, _data_types: Mapping[str, DataType]) -> Workload:
        return Workload()

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        return self.recipe.output_bytes(info, data_types)

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        if isinstance(frames, Pixels):
            _misbehave(int(frames.array[0, 0, 0]), Path(self.gate))
        return self.recipe.transform(frames)
