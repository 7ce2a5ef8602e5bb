"""The table of families: which class of transformers is prepared by which recipe. It decides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.images import plain, qwen2_vl
from sidecar.recipes.recipe import Recipe
from sidecar.recipes.sounds import wav2vec2, whisper

Make = Callable[[Config, str, Choice], Recipe]
"""A model's keys, its processor's name as the file has it, and the operator's choice -> its recipe."""

_MODULES: Final = (plain, qwen2_vl, whisper, wav2vec2)

FAMILIES: Final[Mapping[str, Make]] = MappingProxyType(
    {name: make for module in _MODULES for name, make in module.PROCESSORS.items()}
)
"""By a processor's class name in transformers, bare of the suffixes Fast and Pil."""
