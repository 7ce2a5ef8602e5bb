"""Ours and transformers' own, from encoded bytes to the tensor: a child that answers in the interpreter it runs in.

The plain environment has the Pillow wheel and no torch, the other one pillow-simd and torch, so no single
process can hold all that is compared. Each child runs whatever it is asked to on one thread and tells its CPU
time, what came of it, or how much memory it took at most. torch is held to one thread.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import io
import json
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from bench.processes import answers
from sidecar.deadline import Deadline
from sidecar.media import DataType, Samples, Source, Tensor
from sidecar.recipes.image import PIXELS
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe
from sidecar.workers.worker import Job, Outlet, work
from testbed import memory
from testbed.parity import Keys, extractor, processor
from testbed.torchvision_import import import_torchvision

RATE: Final = 16_000
SECONDS: Final = 30

_PACKAGES: Final = ("transformers", "pillow", "pillow-simd", "numpy", "torch", "torchvision", "simplejpeg")

Prepare = Callable[[bytes], object]


def answer(ask: str, **question: Any) -> object:  # noqa: ANN401 - JSON values
    """Answers one of _QUESTIONS."""
    return _QUESTIONS[ask](**question)


def installed() -> dict[str, str]:
    """The versions of what is imported here. Where pillow-simd is, it hides the wheel that lies behind it."""
    found = {each.name.lower(): each.version for each in reversed([*metadata.distributions()]) if each.name}
    if "pillow-simd" in found:
        found.pop("pillow", None)
    return {name: found[name] for name in _PACKAGES if name in found}


def spent(work: str, keys: Keys, paths: Sequence[str], **choice: object) -> int:
    """CPU nanoseconds that the pictures of these files take, one after another."""
    prepare, files = _preparer(work, json.dumps(keys), json.dumps(choice)), [_bytes(path) for path in paths]
    begun = time.process_time_ns()
    for data in files:
        prepare(data)
    return time.process_time_ns() - begun


def sums(work: str, keys: Keys, path: str, **choice: object) -> dict[str, int]:
    """CRC-32 of every output for a picture, by name."""
    made = _preparer(work, json.dumps(keys), json.dumps(choice))(_bytes(path))
    if isinstance(made, tuple):
        return {tensor.name: zlib.crc32(tensor.data) for tensor in made}
    assert isinstance(made, Mapping)  # noqa: S101 - a BatchFeature
    return {name: zlib.crc32(np.asarray(values).tobytes()) for name, values in made.items()}


def apart(keys: Keys, paths: Sequence[str]) -> list[tuple[float, float]]:
    """Of each picture's bytes in fast mode, against those in exact: the mean difference and the mean square."""
    exact, fast = (_recipe(json.dumps(keys), json.dumps({"fast": fast})) for fast in (False, True))
    found = []
    for path in paths:
        one, other = (_pixels(recipe, _bytes(path)) for recipe in (exact, fast))
        difference = one.astype(np.float64) - other
        found.append((float(np.abs(difference).mean()), float(np.square(difference).mean())))
    return found


def peak(keys: Keys, path: str, warm: str, **choice: object) -> dict[str, int]:
    """Bytes that one picture takes at most on top of what is there before it, and those of its output.

    `warm` is a picture of the same kind, small, which is prepared first. To be asked of a fresh child: the
    allocator keeps what it once had.
    """
    recipe, data = _recipe(json.dumps(keys), json.dumps(choice)), _bytes(path)
    _ours(recipe, None)(_bytes(warm))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory.renewed_peak()
    tensors = _ours(recipe, None)(data)
    return {"peak": memory.peak() - before, "output": sum(tensor.nbytes for tensor in tensors)}


@functools.cache
def _preparer(work: str, keys: str, choice: str) -> Prepare:
    return _WORKS[work](keys, choice)


@functools.cache
def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


@functools.cache
def _recipe(keys: str, choice: str) -> Recipe:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "preprocessor_config.json").write_text(keys)
        return load_recipe(Path(directory), **json.loads(choice))


def _ours(recipe: Recipe, out: dict[str, bytearray] | None) -> Callable[[bytes], tuple[Tensor, ...]]:
    """All stages, as a worker runs them. With `out` the tensors lie in memory that is used again, as the arena's is."""
    types = {spec.name: spec.data_type for spec in recipe.outputs}

    def prepare(data: bytes) -> tuple[Tensor, ...]:
        source = Source(data)
        info = probe(source)
        outlets = None if out is None else _outlets(out, recipe.output_bytes(info, types))
        target = recipe.decode_target(info)
        done = work(Job(source, info, recipe, target, types, Deadline(None), outlets=outlets))
        if done.problem is not None:
            raise done.problem
        return done.tensors

    return prepare


def _outlets(kept: dict[str, bytearray], wanted: Mapping[str, int]) -> dict[str, Outlet]:
    for name, count in wanted.items():
        if len(kept.get(name, b"")) < count:
            kept[name] = bytearray(count)
    return {name: Outlet(0, memoryview(kept[name])) for name in wanted}


def _pixels(recipe: Recipe, data: bytes) -> npt.NDArray[np.uint8]:
    source = Source(data)
    info = probe(source)
    shaped = recipe.transform(decode(source, info, recipe.decode_target(info)))
    (pixels,) = pack(shaped, {PIXELS: DataType.UINT8})
    return np.frombuffer(pixels.data, np.uint8)


def _judge(keys: str, backend: str, tensors: str) -> Prepare:
    """transformers, as its users call it: Pillow opens and converts, and the processor does the rest."""
    judge = processor(json.dumps(json.loads(keys), sort_keys=True), backend)

    def prepare(data: bytes) -> object:
        return judge(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors=tensors)

    return prepare


def _ready_torch() -> None:
    """Where torch is, transformers imports torchvision for all it does, and torch takes every core."""
    import_torchvision()
    importlib.import_module("torch").set_num_threads(1)


def _mel_of_ours(keys: str, choice: str) -> Prepare:
    recipe, wave = _recipe(keys, choice), _wave()
    types = {spec.name: spec.data_type for spec in recipe.outputs}
    return lambda _: pack(recipe.transform(Samples(wave[np.newaxis], RATE)), types)


def _mel_of_extractor(keys: str, _choice: str) -> Prepare:
    judge, wave = extractor(json.loads(keys)), _wave()
    tensors = "pt" if find_spec("torch") else "np"
    return lambda _: judge(wave, sampling_rate=RATE, return_tensors=tensors)


def _wave() -> npt.NDArray[np.float32]:
    draws = np.random.default_rng(1)
    return (0.1 * draws.standard_normal(RATE * SECONDS)).astype(np.float32)


def _bare_decode(_keys: str, _choice: str) -> Prepare:
    room = np.empty(1 << 26, np.uint8)
    return lambda data: simplejpeg.decode_jpeg(data, "RGB", buffer=room)


_WORKS: Final[Mapping[str, Callable[[str, str], Prepare]]] = {
    "ours": lambda keys, choice: _ours(_recipe(keys, choice), {}),
    "pil": lambda keys, _: _judge(keys, "pil", "np"),
    "torchvision": lambda keys, _: _judge(keys, "torchvision", "pt"),
    "decode": _bare_decode,
    "mel of ours": _mel_of_ours,
    "mel of the extractor": _mel_of_extractor,
}
_QUESTIONS: Final[Mapping[str, Callable[..., object]]] = {
    "installed": installed,
    "spent": spent,
    "sums": sums,
    "apart": apart,
    "peak": peak,
}


if __name__ == "__main__":
    if find_spec("torch"):
        _ready_torch()
    answers(answer)
