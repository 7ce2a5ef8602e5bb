"""What jobs still compile in a process that was made warm: a process of its own, since it must begin cold.

    python -m tests.isolation.compiled

Warms up as the nursery does, prepares every picture and sound by every recipe, and prints one line of JSON: the
compiled functions that were not there before.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from sidecar.deadline import Deadline
from sidecar.errors import CorruptMedia
from sidecar.media import Modality, Source
from sidecar.recipes.loader import load_recipe
from sidecar.stages import fourier, kernels, unfilter
from sidecar.stages.probe import probe
from sidecar.workers.worker import Job, work
from tests import corpus
from tests.isolation.inside import picture
from tests.running import CHECKPOINTS

# Smaller and larger than what models take, wide and tall: each has its own order of passes.
SIZES = ((64, 48), (48, 64), (640, 480), (300, 900), (1500, 200))


def compiled() -> dict[str, Any]:
    return {
        name: sorted(map(str, function.signatures))
        for name, function in {**vars(kernels), **vars(fourier), **vars(unfilter)}.items()
        if hasattr(function, "signatures")
    }


def main() -> dict[str, Any]:
    kernels.warm()
    fourier.warm()
    unfilter.warm()
    before = compiled()
    pictures = [corpus.image(name) for name in corpus.PICTURES]
    pictures += [picture(1, *size, form) for size, form in product(SIZES, ("PNG", "JPEG"))]
    sources = {
        Modality.IMAGE: [Source(data) for data in pictures],
        Modality.AUDIO: [Source(corpus.audio(name)) for name in corpus.SOUNDS],
    }
    for folder in sorted(CHECKPOINTS.iterdir()):
        for exact in (True, False):
            recipe = load_recipe(folder, exact=exact)
            types = {output.name: output.data_type for output in recipe.outputs}
            for source in sources[recipe.modality]:
                info = probe(source)
                done = work(Job(source, info, recipe, recipe.decode_target(info), types, Deadline(None)))
                # A family may refuse a shape, as some do the tallest.
                assert isinstance(done.problem, CorruptMedia | None), done.problem
    return {name: found for name, found in compiled().items() if found != before.get(name)}


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201 - its answer
