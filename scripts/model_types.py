"""Writes sidecar/recipes/model_types.py: which processors transformers gives each type of model, where we have them.

    python scripts/model_types.py

To be run after a family is added, and with a new transformers; a test finds it out of date.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from sidecar.recipes.families import FAMILIES

TARGET = Path(__file__).parents[1] / "sidecar" / "recipes" / "model_types.py"
HEAD = '''"""config.json's `model_type` -> its processors, as transformers' own auto classes pair them.

For files that name none. Written by scripts/model_types.py; it holds only classes that there are recipes for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

'''


def pairs() -> dict[str, tuple[str, ...]]:
    """Sorted, by model type."""
    auto = "transformers.models.auto"
    sounds = import_module(f"{auto}.feature_extraction_auto").FEATURE_EXTRACTOR_MAPPING_NAMES
    images = import_module(f"{auto}.image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES
    found: dict[str, list[str]] = {}
    named = [*((model, backends.get("torchvision")) for model, backends in images.items()), *sounds.items()]
    for model, processor in named:
        if processor in FAMILIES:
            found.setdefault(model, []).append(processor)
    return {model: tuple(found[model]) for model in sorted(found)}


def text() -> str:
    """The file's whole content."""
    lines = [f"        {model!r}: {processors!r}," for model, processors in pairs().items()]
    body = "\n".join(lines).replace("'", '"')
    return (
        f"{HEAD}MODEL_TYPES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(\n    {{\n{body}\n    }}\n)\n"
        '"""The classes of a model type, the one for pictures first."""\n'
    )


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
