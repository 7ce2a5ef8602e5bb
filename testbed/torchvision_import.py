"""Imports torchvision beside a torch that it was not built with.

torchvision's wheel carries compiled operators of its own (boxes, region pooling) which a CPU-only torch of
another index does not load, and it then fails while registering shapes for two of them: "operator
torchvision::nms does not exist". Nothing here runs those operators: declaring them, without code, is enough
for everything else in torchvision, resizing included. Where they load, nothing is declared.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

# Held for as long as the process: torch forgets the declarations of a library that is collected.
_KEPT: list[Any] = []

_MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> ModuleType:
    """The torchvision module. Raises ImportError where it or torch is not installed."""
    torch = importlib.import_module("torch")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _MISSING:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    _KEPT.append(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision says that its image loading is not there either
        return importlib.import_module("torchvision")
