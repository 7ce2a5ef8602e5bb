"""What every recipe is: a model's own preprocessor, as steps with their numbers.

A recipe is frozen, picklable and pure: from decoded media to shaped arrays. It never decodes, never
knows the model server, and never guesses: a configuration that it cannot follow is a RecipeError.
"""

from __future__ import annotations

from typing import Protocol

from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Modality, Shaped, TensorSpec


class Recipe(Protocol):
    """A model's preprocessor. Attributes state what it follows; `transform` does it.

    `processor` is the type named in the model's files; `reference` says whose numbers are followed
    ("pil", "torchvision", "numpy"); `exact` whether they are met to the bit with the libraries at
    hand; `steps` tells a person each step and its numbers; `outputs` are the tensors it makes, with
    their natural type and shape rule and no batch axis.
    """

    @property
    def processor(self) -> str: ...
    @property
    def modality(self) -> Modality: ...
    @property
    def reference(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def steps(self) -> tuple[str, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def decode_target(self) -> DecodeTarget: ...

    def accepts(self, output: str, data_type: DataType) -> bool:
        """Whether pack can give the output in that type (UINT8: bare pixels, normalised by the model)."""
        ...

    def output_bytes(self, info: MediaInfo) -> int:
        """Memory of the float32 outputs for media with these facts. Unit: bytes."""
        ...

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Decoded media to one Shaped an output, in the order of `outputs`."""
        ...
