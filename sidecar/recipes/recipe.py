"""What every recipe is: a model's own preprocessor, as steps with their numbers.

A recipe is frozen, picklable and pure: from decoded media to shaped arrays. It never decodes, never
knows the model server, and never guesses: a configuration that it cannot follow is a RecipeError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sidecar.media import DataType, DecodeTarget, Frames, MediaInfo, Modality, Shaped, TensorSpec, Workload


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

    def decode_target(self, info: MediaInfo) -> DecodeTarget:
        """What decode must leave of media with these facts."""
        ...

    def tokens(self, info: MediaInfo) -> int | None:
        """How many placeholder tokens media with these facts takes in the prompt, from its header alone.

        None where the model has none, or its files do not tell.
        """
        ...

    def accepts(self, output: str, data_type: DataType) -> bool:
        """Whether pack can give the output in that type (UINT8: bare pixels, normalised by the model)."""
        ...

    def output_bytes(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Mapping[str, int]:
        """Bytes of each output that `data_types` names, for media with these facts, in the types named.

        What is fixed by the recipe or by a picture's size is exact. A sound whose header understates its
        length may need more. Raises MediaTooLarge where transform would.
        """
        ...

    def workload(self, info: MediaInfo, data_types: Mapping[str, DataType]) -> Workload:
        """What transform and pack will do with media of these facts, to outputs in the types named.

        Raises what `output_bytes` raises.
        """
        ...

    def transform(self, frames: Frames) -> tuple[Shaped, ...]:
        """Decoded media to one Shaped an output, in the order of `outputs`.

        Raises MediaTooLarge and CorruptMedia; their messages are to follow an item's label and a colon,
        because a recipe does not know the item.
        """
        ...


def bytes_of(elements: Mapping[str, int], data_types: Mapping[str, DataType]) -> Mapping[str, int]:
    """Bytes of outputs by their counts of elements, in the types named; those not named are left out."""
    return {name: count * data_types[name].itemsize for name, count in elements.items() if name in data_types}


def ignored_step(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The last of a recipe's steps, where its file holds keys that its processor ignores; else none."""
    return (f"ignored keys of the file: {', '.join(keys)}",) if keys else ()
