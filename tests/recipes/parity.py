"""The whole way, from encoded bytes to tensors, beside transformers fed as its own loaders feed it.

What is compared, and how: `test_parity_corpus.py` asserts it, `scripts/parity_table.py` writes it down. Ours is
probe, decode, transform and pack. The judge of pictures is `transformers.image_utils.load_image` (Pillow opens,
turns upright and converts) and the family's processor; that of sounds is FFmpeg's plain decoding, the mean of
the channels and soxr HQ, as its loader does it, and the family's extractor.
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
import soxr
from PIL import Image

from sidecar.errors import CorruptMedia, MediaTooLarge, UnsupportedMedia
from sidecar.media import DataType, Source, Tensor, TensorSpec
from sidecar.recipes.families import FAMILIES
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.decode import decode
from sidecar.stages.pack import pack
from sidecar.stages.probe import probe
from testbed.parity import BACKENDS, FAMILY_CONFIGS, Keys, extractor, processor
from testbed.pictures import KINDS, SIZES
from tests import corpus
from tests.corpus.make import photo, png, saved

IMAGES: Final = tuple(name for name in FAMILIES if name.endswith("ImageProcessor"))
SOUNDS: Final = tuple(name for name in FAMILIES if not name.endswith("ImageProcessor"))
MOST_APART: Final = 1e-4
"""Of a sound's values; transformers' own numpy and torch paths are 3e-5 apart."""
MOST_ULP: Final = 1
"""Of a picture's values."""

_LARGE: Final = 400_000


Encoded = Callable[[], bytes]


def _arrays() -> Iterator[tuple[str, Encoded]]:
    """testbed's kinds and sizes: small ones as PNG, large ones as JPEG, up to 12 MP."""
    for place, (height, width) in enumerate((*SIZES, (3000, 4000))):
        name = list(KINDS)[place % len(KINDS)]
        kind = "PNG" if height * width < _LARGE else "JPEG"
        yield f"{name} {width}x{height} {kind}", functools.partial(_drawn, name, height, width, kind)


def _drawn(name: str, height: int, width: int, kind: str) -> bytes:
    return saved(Image.fromarray(KINDS[name](height, width)), kind)


def _modes() -> dict[str, Encoded]:
    """What tests/corpus has no file of: the rarer modes, in the formats that hold them."""
    rgb = Image.fromarray(photo())
    gray, palette = rgb.convert("L"), rgb.quantize(64)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1)))
    rgba, gray_alpha = rgb.copy(), gray.copy()
    rgba.putalpha(alpha)
    gray_alpha.putalpha(alpha)
    images: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "TIFF PA": (palette.convert("PA"), "TIFF", {}),
        "TIFF LA": (gray_alpha, "TIFF", {}),
        "TIFF CMYK": (rgb.convert("CMYK"), "TIFF", {}),
        "TIFF RGBA": (rgba, "TIFF", {}),
        "TIFF F": (gray.convert("F"), "TIFF", {}),
        "TIFF I": (gray.convert("I"), "TIFF", {}),
        "TIFF 1": (gray.convert("1"), "TIFF", {}),
        "TIFF P": (palette, "TIFF", {}),
        "TIFF LAB": (Image.new("LAB", (96, 64), (120, 140, 100)), "TIFF", {}),
        "TIFF YCbCr": (rgb.convert("YCbCr"), "TIFF", {}),
        "JPEG 4:2:2": (rgb, "JPEG", {"subsampling": "4:2:2"}),
        "JPEG 4:1:1": (rgb, "JPEG", {"subsampling": "4:1:1"}),
        "JPEG grey, progressive": (gray, "JPEG", {"progressive": True}),
        "JPEG CMYK, progressive": (rgb.convert("CMYK"), "JPEG", {"progressive": True}),
        "GIF of RGBA": (rgba, "GIF", {}),
        "BMP 1": (gray.convert("1"), "BMP", {}),
        "BMP RGBA": (rgba, "BMP", {}),
        "PNG of 2 bits": (rgb.quantize(4), "PNG", {"bits": 2}),
        "PNG RGBA 1x1": (rgba.resize((1, 1)), "PNG", {}),
    }
    deep = np.dstack([np.asarray(rgba)]).astype(">u2") * 257
    deep_gray = np.asarray(gray_alpha).astype(">u2") * 257
    return {
        **{name: functools.partial(saved, image, kind, **how) for name, (image, kind, how) in images.items()},
        "PNG RGBA of 16 bits": functools.partial(png, 96, 64, 16, 6, _rows(deep)),
        "PNG LA of 16 bits": functools.partial(png, 96, 64, 16, 4, _rows(deep_gray)),
    }


def _rows(deep: npt.NDArray[Any]) -> bytes:
    """A PNG's rows, none of them filtered."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)


@functools.cache
def encoded_pictures() -> Mapping[str, Encoded]:
    """Every picture of the corpus, by name; encoded when it is called for."""
    files = {
        # On damaged EXIF the reference raises.
        name: functools.partial(corpus.image, name)
        for name in corpus.PICTURES
        if name != "jpeg_exif_damaged.jpg"
    }
    return {**files, **_modes(), **dict(_arrays())}


FEW: Final = (
    "jpeg_cmyk.jpg", "jpeg_exif_6.jpg", "png_palette_key.png", "png_gray16.png", "jpeg_3x1000.jpg",
    "noise 223x225 PNG",
)  # fmt: skip
"""A few of them, which the quick run takes."""
FEW_SOUNDS: Final = ("wav_pcm16_stereo_44k.wav", "mp3_mono_16k.mp3", "opus_mono_48k.opus")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one item by one family: `wrong` says what is amiss, and is empty where nothing is.

    `refused`: by both sides. `ulp` and `apart` are the largest difference of floats, in units of the last
    place, and as such.
    """

    wrong: str = ""
    refused: bool = False
    ulp: int = 0
    apart: float = 0.0


class Refused(Exception):
    """A side takes no such item."""


def backends() -> dict[str, str]:
    """The judge of pictures and of sounds that this environment has."""
    try:
        import torch  # noqa: F401 - only one of the environments has it
    except ImportError:
        return {"image": "pil", "sound": "numpy"}
    return {"image": "torchvision", "sound": "torch"}


def judged(family: str, backend: str) -> bool:
    """Whether transformers has the family's class of a backend."""
    import transformers

    return hasattr(transformers, family + BACKENDS[backend])


def heard_by(family: str) -> bool:
    """Whether a sound family's extractor works here; some need torch."""
    import transformers
    from transformers.utils.import_utils import DummyObject

    return not isinstance(getattr(transformers, family), DummyObject)


def agrees(outcome: Outcome, kind: str) -> bool:
    """Whether a picture or a sound is as near as it has to be."""
    near = outcome.ulp <= MOST_ULP if kind == "picture" else outcome.apart <= MOST_APART
    return near and not outcome.wrong


def recipe_of(family: str, reference: str) -> Recipe:
    """The recipe of a family's configuration. KeyError where it has none."""
    with tempfile.TemporaryDirectory() as directory:
        keys = json.dumps(FAMILY_CONFIGS[family])
        (Path(directory) / "preprocessor_config.json").write_text(keys, encoding="utf-8")
        return load_recipe(Path(directory), reference=reference)


def compare_picture(family: str, backend: str, data: bytes) -> Outcome:
    """A picture by a family, as floats; sizes, grids and masks to the last element."""
    return _compare(
        recipe_of(family, backend),
        data,
        lambda: _reference_picture(FAMILY_CONFIGS[family], backend, data),
    )


def compare_sound(family: str, data: bytes) -> Outcome:
    """A sound by a family, beside whichever path its extractor takes here."""
    return _compare(recipe_of(family, "auto"), data, lambda: _reference_sound(FAMILY_CONFIGS[family], data))


def _compare(recipe: Recipe, data: bytes, judge: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Outcome:
    found, expected = _tried(lambda: _ours(recipe, data)), _tried(judge)
    match found, expected:
        case Refused(), Refused():
            return Outcome(refused=True)
        case Refused(), _:
            return Outcome(f"ours refuses: {found}")
        case _, Refused():
            return Outcome(f"transformers refuses: {expected}")
    assert isinstance(found, Mapping)
    assert isinstance(expected, Mapping)
    wrong, ulp, apart = [], 0, 0.0
    for spec in recipe.outputs:
        one = _item(spec, expected[spec.name])
        other = found[spec.name]
        if one.shape != other.shape:
            wrong.append(f"{spec.name} is {other.shape}, and {one.shape} of transformers")
        elif other.dtype.kind != "f":
            if not np.array_equal(one, other):
                wrong.append(f"{spec.name} differs")
        elif other.size:
            ulp = max(ulp, most_ulp(one, other) >> (16 if spec.data_type is DataType.BF16 else 0))
            apart = max(apart, float(np.abs(one.astype(np.float64) - other).max()))
    return Outcome("; ".join(wrong), ulp=ulp, apart=apart)


def _item(spec: TensorSpec, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The one item of a batch."""
    return batch if spec.rows else batch[0]


def most_ulp(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
    """How many float32 lie between two arrays' elements, at most."""
    steps = [_steps(each.astype(np.float32)) for each in (one, other)]
    return int(np.abs(steps[0] - steps[1]).max())


def _steps(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Numbers that are one apart for neighbouring floats; the two zeros are one."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _tried(side: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Mapping[str, npt.NDArray[Any]] | Refused:
    try:
        return side()
    except Refused as refusal:
        return refusal


def _ours(recipe: Recipe, data: bytes) -> dict[str, npt.NDArray[Any]]:
    source = Source(data)
    try:
        info = probe(source)
        shaped = recipe.transform(decode(source, info, recipe.decode_target(info)))
    except (CorruptMedia, MediaTooLarge, UnsupportedMedia) as error:
        raise Refused(str(error)) from error
    tensors = pack(shaped, {spec.name: spec.data_type for spec in recipe.outputs})
    return {tensor.name: _values(tensor).reshape(tensor.shape) for tensor in tensors}


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    stored = np.frombuffer(tensor.data, tensor.data_type.storage)
    if tensor.data_type is not DataType.BF16:
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)


def _reference_picture(keys: Keys, backend: str, data: bytes) -> dict[str, npt.NDArray[Any]]:
    from transformers.image_utils import load_image

    judge = processor(json.dumps(keys, sort_keys=True), backend)
    tensors = "pt" if backend == "torchvision" else "np"
    try:
        made = judge(load_image(Image.open(io.BytesIO(data))), return_tensors=tensors)
    except (ValueError, OSError, ZeroDivisionError, RuntimeError, ImportError) as error:
        raise Refused(repr(error)) from error
    # numpy has no BF16: its values are as well float32.
    return {
        name: np.asarray(values.float() if str(getattr(values, "dtype", "")) == "torch.bfloat16" else values)
        for name, values in made.items()
    }


def _reference_sound(keys: Keys, data: bytes) -> dict[str, npt.NDArray[Any]]:
    judge = extractor(keys)
    # As whole processors hand it over: alone and without a list, Gemma 4's extractor fails.
    made = judge([heard(data, judge.sampling_rate)], sampling_rate=judge.sampling_rate, return_tensors="np")
    return {name: np.asarray(values) for name, values in made.items()}


def heard(data: bytes, rate: int) -> npt.NDArray[np.float32]:
    """A sound as transformers' loader makes one: mono at `rate` hertz, ceil(samples x rate / stored rate) of it."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        floats = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        blocks = [
            part.to_ndarray()
            for frame in (*container.decode(stream), None)
            for part in floats.resample(frame)
        ]
        stored = stream.rate
    interleaved = np.ascontiguousarray(np.concatenate(blocks, axis=1).T, np.float32)
    mono: npt.NDArray[np.float32] = interleaved.mean(axis=1)
    if stored == rate:
        return mono
    resampled = soxr.resample(mono, stored, rate, quality="soxr_hq")
    length = -(-mono.size * rate // stored)
    found: npt.NDArray[np.float32] = np.pad(resampled, (0, max(0, length - resampled.size)))[:length]
    return found
