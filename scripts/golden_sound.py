"""Writes down what extractors that need torch compute, so that it is checked where torch is not installed.

.venv-simd/bin/python scripts/golden_sound.py   some of Parakeet's features of each sound, with all of the mask,
                                                into tests/recipes/sounds/parakeet_features.json
"""

from __future__ import annotations

import json
from importlib.metadata import version

import torch

from tests.recipes.sounds.judge import SOUNDS, expected
from tests.recipes.sounds.test_parakeet import CONFIGS, GOLDEN, sampled


def features() -> None:
    torch.set_num_threads(1)
    answers: dict[str, dict[str, object]] = {}
    for name, keys in CONFIGS.items():
        answers[name] = {}
        for title, wave in SOUNDS.items():
            if wave.size < 2 * keys.get("hop_length", 160):
                continue
            found = expected(keys, wave)
            values = found["input_features"]
            answers[name][title] = {
                "shape": values.shape,
                "heard": int(found["attention_mask"].sum()),
                "some": [float(f"{value:.7g}") for value in sampled(values)],
            }
    made_with = {package: version(package) for package in ("torch", "transformers", "numpy")}
    lines = ",\n".join(
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(title)}: {json.dumps(answer)}" for title, answer in by_title.items())
        + "\n  }"
        for name, by_title in answers.items()
    )
    GOLDEN.write_text(
        f'{{\n "made by": "scripts/golden_sound.py",\n "made with": {json.dumps(made_with)},\n "features": {{\n'
        f"{lines}\n }}\n}}\n",
        encoding="utf-8",
    )
    print(f"{GOLDEN}: {sum(len(by_title) for by_title in answers.values())} answers")


if __name__ == "__main__":
    features()
