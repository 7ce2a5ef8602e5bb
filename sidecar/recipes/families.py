"""The table of families: which class of transformers is prepared by which recipe. It decides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.images import (
    convnext,
    gemma3,
    gemma4,
    got_ocr2,
    idefics3,
    kimi,
    llama4,
    llava_next,
    minicpmv,
    mllama,
    phi4,
    pixtral,
    plain,
    qwen2_vl,
    siglip2,
)
from sidecar.recipes.recipe import Recipe
from sidecar.recipes.sounds import gemma3n, parakeet, seamless, wav2vec2, whisper

Make = Callable[[Config, str, Choice], Recipe]
"""A model's keys, its processor's name as the file has it, and the operator's choice -> its recipe."""

_IMAGES: Final = (
    plain, convnext, qwen2_vl, got_ocr2, pixtral, llava_next, gemma3, gemma4, siglip2, llama4, mllama, idefics3,
    minicpmv, phi4, kimi,
)  # fmt: skip
_SOUNDS: Final = (whisper, wav2vec2, parakeet, gemma3n, seamless)

FAMILIES: Final[Mapping[str, Make]] = MappingProxyType(
    {name: make for module in (*_IMAGES, *_SOUNDS) for name, make in module.PROCESSORS.items()}
)
"""By a processor's class name in transformers, bare of the suffixes Fast and Pil."""
