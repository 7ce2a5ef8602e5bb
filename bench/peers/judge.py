"""Whether a contender makes the pixels that it must, before it is measured."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.peers.contenders import Route, Running, Values
from bench.servers.preprocess import MODES, prepare, summary
from testbed.parity import pil_processor, published, reference_values

TOLERANCE = 1e-6
"""From the reference, in normalised units; a grey level is 0.015."""

SIMD_TOLERANCE = 0.05
"""pillow-simd's bicubic rounds its coefficients otherwise, and is up to two grey levels off."""


class WrongPixels(Exception):
    """A contender answers with other pixels than it must; the message says which, and how far off."""


class Judge:
    """Knows what each picture must become: in exact mode what `transformers`' PIL processor makes of it,
    in scaled mode what Pillow's `draft` at 6/5 of the target and the same resize make.
    """

    def __init__(self, loop: asyncio.Runner, pictures: Sequence[bytes]) -> None:
        processor = pil_processor(published("clip-vit-base-patch32"))
        self._loop = loop
        self._pictures = pictures
        self._expected = {
            "exact": [reference_values(processor, _decoded(data)) for data in pictures],
            "scaled": [prepare(data, "scaled") for data in pictures],
        }

    def check(self, contender: str, running: Running, tolerance: float) -> dict[str, float]:
        """How far off the contender is at most, by mode. Raises WrongPixels where that is too far."""
        return {mode: self._off(contender, running, mode, tolerance) for mode in MODES}

    def _off(self, contender: str, running: Running, mode: str, tolerance: float) -> float:
        worst = 0.0
        for data, expected in zip(self._pictures, self._expected[mode], strict=True):
            found = self._loop.run(_once(running.checked[mode], data))
            wanted = expected.ravel() if found.size == expected.size else summary(expected)
            off = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
            worst = max(worst, off)
        if worst > tolerance:
            raise WrongPixels(f"{contender} is off by {worst:g} in {mode} mode, and {tolerance:g} is allowed")
        return worst


async def _once(route: Route, data: bytes) -> Values:
    async with route.connect([route.lay(data)]) as call:
        return route.read(await call(0))


def _decoded(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
