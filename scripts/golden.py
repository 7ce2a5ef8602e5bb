"""Writes down what the references compute, so that it is checked where they cannot run.

.venv-simd/bin/python scripts/golden.py pixels     the torchvision backend's uint8 pixels, as CRC-32, into
                                                   tests/recipes/torchvision_pixels.json
.venv-simd/bin/python scripts/golden.py known      torchvision's known answers for transform/resize.py
.venv/bin/python scripts/golden.py known           the Pillow wheel's
"""

from __future__ import annotations

import json
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL

from sidecar.stages.transform.resize import FILTERS, KNOWN_SIZES, known_answer, known_pattern
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
    text = json.dumps(
        {"made by": "scripts/golden.py pixels", "made with": made_with, "crc32": answers}, indent=1
    )
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {sum(map(len, answers.values()))} answers")


def known() -> None:
    """The known answers of the PIL at hand, and of torchvision where it is installed."""
    print(f"PIL {PIL.__version__}: { ({key: hex(known_answer(key)) for key in FILTERS}) }")
    try:
        import_torchvision()
    except ImportError:
        return
    import torch  # noqa: PLC0415 - not everywhere
    from torchvision.transforms.v2 import InterpolationMode  # noqa: PLC0415
    from torchvision.transforms.v2.functional import resize  # noqa: PLC0415

    for key, mode in (
        (1, InterpolationMode.LANCZOS),
        (2, InterpolationMode.BILINEAR),
        (3, InterpolationMode.BICUBIC),
    ):
        crc = 0
        for size, target in KNOWN_SIZES:
            planes = torch.from_numpy(known_pattern(size)).permute(2, 0, 1).contiguous()
            resized = resize(planes, list(target), interpolation=mode, antialias=True)
            crc = zlib.crc32(resized.permute(1, 2, 0).contiguous().numpy(), crc)
        print(f"torchvision {FILTERS[key]}: {crc:#010x}")


if __name__ == "__main__":
    {"pixels": pixels, "known": known}[sys.argv[1]]()
