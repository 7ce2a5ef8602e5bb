"""Writes sidecar/stages/admit/fitted.py, the rates at which this machine decodes, transforms and packs, and
sidecar/workers/calibration.jpg, by which servers find out how fast they are beside it.

    python scripts/fit_costs.py [--rounds N]

To be run after a decoder, a kernel or a recipe became faster or slower, on a machine with nothing else to do; about
four minutes. Every step of every medium of `bench.assortment.FITTED` is measured by itself in CPU time of its
thread, a round over all media after the other, and the median counts. A row's rates are those, none negative, whose
relative errors have the least sum of squares. A wider row, for media that no finer row is about, is fitted to the
measurements of all its finer ones together. What the table foretells of other media is `sidecar bench costs`'s to
say.
"""

from __future__ import annotations

import argparse
import io
import json
import mmap
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from bench.assortment import FITTED, drawn, pictures, sounds
from bench.report import report
from sidecar.deadline import Deadline
from sidecar.media import (
    AudioInfo,
    DataType,
    DecodeTarget,
    Frames,
    ImageInfo,
    MediaInfo,
    Pixels,
    Samples,
    Source,
    Workload,
)
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages import fourier, kernels
from sidecar.stages.admit.rates import Amounts, Row, steps
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe
from sidecar.stages.transform.resample import mono, resample
from sidecar.workers.heap import keep_blocks
from sidecar.workers.worker import Job, work
from testbed.parity import FAMILY_CONFIGS, Keys, published

TARGET: Final = Path(__file__).parents[1] / "sidecar" / "stages" / "admit" / "fitted.py"
PHOTOGRAPH: Final = Path(__file__).parents[1] / "sidecar" / "workers" / "calibration.jpg"
ROUNDS: Final = 5

# Steps below this are as much noise as cost, and count for less. Milliseconds.
_NOISE_MS: Final = 0.03
_RATE: Final = 16_000
_SOUND_SECONDS: Final = (0.5, 3.0, 12.0, 28.0)
_STORED_RATES: Final = (8_000, 22_050, 44_100, 48_000)
# Recipes that resize the whole picture once, by each engine and filter.
_PICTURES: Final[Sequence[tuple[Keys, str]]] = (
    (published("clip-vit-base-patch32"), "pil"),
    (published("clip-vit-base-patch32"), "torchvision"),
    (published("vit-base-patch16-224"), "pil"),
    (FAMILY_CONFIGS["Qwen2VLImageProcessor"], "pil"),
    (FAMILY_CONFIGS["Qwen2VLImageProcessor"], "torchvision"),
    (FAMILY_CONFIGS["PixtralImageProcessor"], "pil"),
)
_SOUNDS: Final = (
    published("whisper-tiny"),
    published("whisper-large-v3"),
    *(
        FAMILY_CONFIGS[name]
        for name in (
            "Wav2Vec2FeatureExtractor",
            "ParakeetFeatureExtractor",
            "SeamlessM4TFeatureExtractor",
            "Gemma3nAudioFeatureExtractor",
            "Gemma4AudioFeatureExtractor",
        )
    ),
)
_TRANSFORMED: Final = ((64, 48), (320, 240), (480, 640), (1024, 682), (1920, 1080), (4000, 3000))
_TIMES: Final = 200  # what takes microseconds is measured at once
_OUT: Final = memoryview(bytearray(320 << 20))
_TYPES: Final = (DataType.FP32, DataType.BF16)

HEAD: Final = '''"""At which rates {cpu} decodes, transforms and packs: milliseconds a million, of one core.

Written by scripts/fit_costs.py with
{libraries}.
Rows and amounts are those of rates.py, the first rate being the constant; behind each row stand the
measurements it was fitted to, and the geometric standard deviation of their ratios to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

RATES: Final[Mapping[tuple[str, ...], tuple[float, ...]]] = MappingProxyType(
    {{
'''


@dataclass(slots=True)
class Measured:
    """A step: its row and amounts, how to run it, and the milliseconds that it took, a round after the other.

    What `less` takes is no part of it.
    """

    row: Row
    amounts: Amounts
    run: Callable[[], object]
    less: Callable[[], object] | None = None
    ms: list[float] = field(default_factory=list)

    def once(self) -> float:
        return _taken(self.run) - (_taken(self.less) if self.less is not None else 0.0)


def _taken(run: Callable[[], object]) -> float:
    """Milliseconds of this thread's CPU time."""
    begun = time.thread_time_ns()
    run()
    return (time.thread_time_ns() - begun) / 1e6


def measured() -> Iterator[Measured]:
    """Every step of every medium."""
    for medium in (*pictures(FITTED), *sounds(FITTED)):
        source = Source(medium.data)
        info = probe(source)
        yield from _decoding(source, info)
    yield from _shaping_pictures()
    yield from _shaping_sounds()
    yield _taking_up()


def _decoding(source: Source, info: MediaInfo) -> Iterator[Measured]:
    targets = [DecodeTarget()]
    if isinstance(info, ImageInfo):
        height, width = info.upright_size[::-1]
        shrinks = (2, 4, 8) if info.format == "jpeg" else ()
        targets += [DecodeTarget(least_size=(-(-height // n), -(-width // n))) for n in shrinks]
    for target in targets:
        row, amounts = _step(info, target, Workload(), "picture", "sound")
        yield Measured(row, amounts, lambda target=target: decode(source, info, target))  # type: ignore[misc]


def _step(info: MediaInfo, target: DecodeTarget, load: Workload, *names: str) -> tuple[Row, Amounts]:
    return next(step for step in steps(info, target, load) if step[0][0] in names)


def _shaping_pictures() -> Iterator[Measured]:
    for keys, reference in _PICTURES:
        recipe = _recipe(keys, reference)
        for size in _TRANSFORMED:
            pixels = Pixels(np.asarray(drawn("photo", size, FITTED.seed)))
            info = ImageInfo("jpeg", 0, *size, "RGB")
            yield from _shaping(recipe, info, pixels)


def _shaping(recipe: Recipe, info: MediaInfo, frames: Frames) -> Iterator[Measured]:
    """The recipe's step, and pack's into each type."""
    natural = {spec.name: spec.data_type for spec in recipe.outputs}
    target, load = recipe.decode_target(info), recipe.workload(info, natural)
    found = [step for step in steps(info, target, load) if step[0][0] in {"resize", "spectrum"}]
    for row, amounts in found[:1]:
        yield Measured(row, amounts, lambda: recipe.transform(frames))
    shaped = recipe.transform(frames)
    for kind in _TYPES:
        types = {name: kind if own is DataType.FP32 else own for name, own in natural.items()}
        # As the arena's slots: memory that was written to before.
        out = {name: _OUT[:size] for name, size in recipe.output_bytes(info, types).items()}
        row, amounts = _step(info, target, recipe.workload(info, types), "pack")
        yield Measured(row, amounts, lambda types=types, out=out: pack(shaped, types, out))  # type: ignore[misc]


def _shaping_sounds() -> Iterator[Measured]:
    draws = np.random.default_rng(0)
    for seconds in _SOUND_SECONDS:
        for rate in _STORED_RATES:
            stereo = draws.normal(0, 0.1, (2, round(seconds * rate))).astype(np.float32)
            info = AudioInfo("wav", 0, "pcm_s16le", rate, 2, seconds)
            load = Workload(rate=_RATE, seconds=seconds)
            yield Measured(*_step(info, DecodeTarget(), load, "mono"), lambda stereo=stereo: mono(stereo))  # type: ignore[misc]
            yield Measured(
                *_step(info, DecodeTarget(), load, "resample"),
                lambda stereo=stereo, rate=rate: resample(stereo[0], rate, _RATE),  # type: ignore[misc]
            )
        wave = draws.normal(0, 0.1, (1, round(seconds * _RATE))).astype(np.float32)
        for keys in _SOUNDS:
            info = AudioInfo("wav", 0, "pcm_s16le", _RATE, 1, seconds)
            yield from _shaping(_recipe(keys, "auto"), info, Samples(wave, _RATE))


def _taking_up() -> Measured:
    """A job on a picture of one pixel, less its stages, is the taking up of it."""
    recipe = _recipe({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "pil")
    source = Source(next(pictures(replace(FITTED, sizes=((1, 1),)))).data)
    info, types = probe(source), {spec.name: spec.data_type for spec in recipe.outputs}
    job = Job(source, info, recipe, DecodeTarget(), types, Deadline(None))

    def jobs() -> None:
        for _ in range(_TIMES):
            work(job)

    def stages() -> None:
        for _ in range(_TIMES):
            pack(recipe.transform(decode(source, info, DecodeTarget())), types)

    return Measured(("job",), (float(_TIMES),), jobs, stages)


def _recipe(keys: Keys, reference: str) -> Recipe:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "preprocessor_config.json").write_text(json.dumps(keys))
        return load_recipe(Path(directory), reference=reference, exact=False)


def fitted(steps_measured: Sequence[Measured]) -> Mapping[Row, tuple[tuple[float, ...], int, float]]:
    """By row, wider ones before finer: rates, how many measurements they stand on, and their spread.

    A row that stands on all of a wider one's measurements is left out.
    """
    grouped: dict[Row, list[Measured]] = defaultdict(list)
    for each in steps_measured:
        for end in range(1, len(each.row) + 1):
            grouped[each.row[:end]].append(each)
    found = {}
    for row in sorted(grouped):
        if len(grouped[row]) < len(grouped.get(row[:-1], ())) or len(row) == 1:
            rates, spread = _fit(grouped[row])
            found[row] = rates, len(grouped[row]), spread
    return found


def _fit(group: Sequence[Measured]) -> tuple[tuple[float, ...], float]:
    """The rates, none negative, and the geometric standard deviation of measured / foretold."""
    amounts = np.array([each.amounts for each in group])
    ms = np.maximum([statistics.median(each.ms) for each in group], 0.0)  # differences may be below it
    weights: npt.NDArray[np.float64] = 1 / (ms + _NOISE_MS)
    rates, _ = nnls(amounts * weights[:, np.newaxis], ms * weights)
    errors = np.log((ms + _NOISE_MS) / (amounts @ rates + _NOISE_MS))
    return tuple(float(f"{rate:.4g}") for rate in rates), float(np.exp(errors.std()))


def text(found: Mapping[Row, tuple[tuple[float, ...], int, float]]) -> str:
    """The file's whole content."""
    told = report("costs", [], [])
    names = ("pillow", "simplejpeg", "av", "numba", "numpy")
    libraries = ", ".join(f"{name} {told['versions'][name]}" for name in names)
    lines = [
        f"        {json.dumps(row).replace('[', '(').replace(']', ',)' if len(row) == 1 else ')')}: {rates},"
        f"  # {count}, {spread:.2f}"
        for row, (rates, count, spread) in found.items()
    ]
    head = HEAD.format(cpu=told["machine"]["cpu"], libraries=libraries)
    return head + "\n".join(lines) + "\n    }\n)\n"


def photograph() -> bytes:
    """What a server calibrates itself with: a photograph of 52 KB, the same on every run."""
    file = io.BytesIO()
    drawn("photo", (480, 360), FITTED.seed).save(file, "JPEG", quality=85, subsampling="4:2:0", optimize=True)
    return file.getvalue()


def main() -> None:
    """Measures, fits, and writes the file."""
    parser = argparse.ArgumentParser(description="Fit the rates of costs to this machine.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    keep_blocks()
    _OUT[:: mmap.PAGESIZE] = b"\1" * len(_OUT[:: mmap.PAGESIZE])
    kernels.warm()
    fourier.warm()
    with threadpool_limits(1):
        todo = list(measured())
        for each in todo:
            each.once()  # compiled and paged in by this
        for _ in range(options.rounds):
            for each in todo:
                each.ms.append(each.once())
    PHOTOGRAPH.write_bytes(photograph())
    TARGET.write_text(text(fitted(todo)), encoding="utf-8")


if __name__ == "__main__":
    main()
