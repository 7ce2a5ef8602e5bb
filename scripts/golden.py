"""Writes down what the torchvision backend computes, so that it is checked where torch is not installed.

.venv-simd/bin/python scripts/golden.py     the torchvision backend's uint8 pixels, as CRC-32, into
                                            tests/recipes/torchvision_pixels.json
"""

from __future__ import annotations

import json
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np

from testbed.parity import CONFIGS, reference_pixels, torchvision_processor
from testbed.pictures import pictures
from testbed.torchvision_import import import_torchvision

GOLDEN = Path(__file__).parents[1] / "tests" / "recipes" / "torchvision_pixels.json"


def pixels() -> None:
    """CRC-32 over uint8 [3, height, width] after resize and crop, a configuration and picture."""
    import_torchvision()
    answers = {}
    for name, keys in CONFIGS.items():
        processor = torchvision_processor(keys)
        answers[name] = {
            title: f"{zlib.crc32(np.ascontiguousarray(reference_pixels(processor, picture)).data):08x}"
            for title, picture in pictures()
        }
    made_with = {package: version(package) for package in ("torch", "torchvision", "transformers", "numpy")}
    text = json.dumps({"made by": "scripts/golden.py", "made with": made_with, "crc32": answers}, indent=1)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {sum(map(len, answers.values()))} answers")


if __name__ == "__main__":
    pixels()
