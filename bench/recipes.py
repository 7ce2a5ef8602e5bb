"""Recipes beside transformers' own processors: CPU time from encoded bytes to the final tensor, on one thread.

Ours runs all of its stages (probe, decode, transform, pack). transformers is called as its users call it:
Pillow opens the file and converts it, the processor does the rest. Ours is measured beside the Pillow wheel and
beside pillow-simd, transformers' PIL backend beside the wheel, whose bits are its reference (and beside
pillow-simd, where its pixels are others, as a case without a bound), its torchvision backend with torch on one
thread. `bench.preparers` runs them, each in the interpreter that has it: pillow-simd and torch are in
`.venv-simd`, which scripts/simd.sh makes where it can. What is not at hand is not judged, and a case says so.

Ours has the allocator settings that the sidecar's workers give themselves (sidecar.workers.heap).
transformers has none, since nobody sets any for it; what it would gain by ours is told beside it, without a
bound ("our allocator settings"): at 12 MP a quarter of its time is pages that are mapped anew.

Rounds take all contenders in turn, in alternating order, over the same pictures of `bench.photos`. Figures
are medians of the rounds; a ratio is the median of the rounds' ratios. Memory is the kernel's count of the most
that a process held, less what it held before.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import transformers
from PIL import Image

from bench.photos import QUALITY, SIZES, photos
from bench.processes import CAREFUL_ENVIRONMENT, PROJECT, Child
from bench.report import at_least, at_most, report
from sidecar.recipes.families import FAMILIES
from testbed.parity import FAMILY_CONFIGS, Keys, published

ROUNDS: Final = 7
FAMILY_ROUNDS: Final = 3
_COUNTS: Final = {"640x480": 8, "1920x1080": 8, "4000x3000": 3}
"""Pictures a round, by size."""
_FAMILY_COUNT: Final = 3
_LOUD: Final = 4
"""Times a round that the sound is heard."""

_CLIP: Final = published("clip-vit-base-patch32")
_QWEN: Final = FAMILY_CONFIGS["Qwen2VLImageProcessor"]
_WHISPER: Final = published("whisper-tiny")

_REMEMBERED: Final = (
    ("1920x1080", "JPEG", "CLIP 224", _CLIP),
    ("4000x3000", "JPEG", "CLIP 224", _CLIP),
    ("1920x1080", "JPEG", "Qwen2-VL", _QWEN),
    ("3264x2448", "JPEG", "Qwen2-VL", _QWEN),
    ("4000x3000", "JPEG", "Qwen2-VL", _QWEN),
    ("1920x1080", "PNG", "CLIP 224", _CLIP),
    ("4000x3000", "PNG", "CLIP 224", _CLIP),
    ("4000x3000", "PNG", "Qwen2-VL", _QWEN),
    *(
        (size, "JPEG", name.removesuffix("ImageProcessor"), FAMILY_CONFIGS[name])
        for size, name in (
            ("640x480", "GotOcr2ImageProcessor"),
            ("4000x3000", "GotOcr2ImageProcessor"),
            ("4000x3000", "Cohere2VisionImageProcessor"),
            ("4000x3000", "PixtralImageProcessor"),
            ("4000x3000", "LlavaOnevisionImageProcessor"),
            ("4000x3000", "Gemma4ImageProcessor"),
            ("4000x3000", "MllamaImageProcessor"),
            ("4000x3000", "Idefics3ImageProcessor"),
            ("4000x3000", "MiniCPMV4_6ImageProcessor"),
            ("1920x1080", "Phi4MultimodalImageProcessor"),
            ("4000x3000", "Kimi_K25ImageProcessor"),
        )
    ),
)
"""Whose memory is looked at: size, kind of file, model, its keys. 8 MP is the largest of cameras whose pictures malloc
does not map; families are those that leave most before pack, at the size where they are nearest to the bound."""

WHEEL, SIMD = "Pillow wheel", "pillow-simd"
_SIMD_PYTHON: Final = PROJECT / ".venv-simd" / "bin" / "python"
_SETTINGS: Final = "our allocator settings"
# As in CAREFUL_ENVIRONMENT, whose other settings are the allocator's.
_ONE_THREAD: Final = {name: "1" for name in CAREFUL_ENVIRONMENT if name.endswith("_NUM_THREADS")}
_PREPARERS: Final = "bench.preparers"

# Of pixels in bytes.
_PEAK: Final = 255.0
_SPARE: Final = 8 << 20
_SMALL: Final = (64, 48)
_NEAR: Final = {"600x450": (600, 450), "1200x900": (1200, 900)}
"""Sizes that leave just about the target, or twice that, when decoded at a half: fast is at its worst there."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured: `work` of `bench.preparers`, in a child, by the operator's choice."""

    name: str
    child: Child
    work: str
    choice: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """The children by Pillow (SIMD only where it is), what they have installed, and the pictures' files by size.

    `users` are those without allocator settings.
    """

    children: Mapping[str, Child]
    users: Mapping[str, Child]
    installed: Mapping[str, Mapping[str, str]]
    pictures: Mapping[str, Sequence[str]]
    folder: Path
    rounds: int

    @property
    def has_torchvision(self) -> bool:
        return SIMD in self.children and "torchvision" in self.installed[SIMD]

    def ours(self, **choice: object) -> list[Contender]:
        """Ours beside each Pillow, by the operator's choice."""
        what = "fast" if choice.get("fast") else "exact"
        whose = " as torchvision" if choice.get("reference") == "torchvision" else ""
        return [
            Contender(f"{what}{whose}, {pillow}", child, "ours", choice)
            for pillow, child in self.children.items()
        ]

    def judges(self, name: str, pillow: str, work: str) -> list[Contender]:
        """A backend as it is, and with our allocator settings."""
        return [
            Contender(name, self.users[pillow], work),
            Contender(f"{name}, {_SETTINGS}", self.children[pillow], work),
        ]


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures everything, about three minutes."""
    with _bench(rounds) as bench:
        cases = [
            *_pictures(bench),
            _sound(bench),
            *_families(bench),
            *_errors(bench),
            *_memory(bench),
            *_missing(bench),
        ]
        return report("recipes", cases, targets(cases)) | {"installed": dict(bench.installed)}


@contextmanager
def _bench(rounds: int) -> Iterator[Bench]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pythons = {WHEEL: Path(sys.executable)} | ({SIMD: _SIMD_PYTHON} if _SIMD_PYTHON.exists() else {})
        children, users = (
            {
                pillow: stack.enter_context(Child.of(_PREPARERS, python, environment))
                for pillow, python in pythons.items()
            }
            for environment in (CAREFUL_ENVIRONMENT, _ONE_THREAD)
        )
        installed = {pillow: child.ask(ask="installed") for pillow, child in children.items()}
        pictures = {
            size: [_kept(folder / f"{size}-{number}.jpg", data) for number, data in enumerate(photos(size))]
            for size in SIZES
        }
        yield Bench(children, users, installed, pictures, folder, rounds)


def _kept(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _pictures(bench: Bench) -> Iterator[dict[str, Any]]:
    """JPEGs to a model's tensor, by all who can."""
    wheel = bench.children[WHEEL]
    for size, model, keys in (
        ("1920x1080", "CLIP 224", _CLIP),
        ("4000x3000", "CLIP 224", _CLIP),
        ("1920x1080", "Qwen2-VL", _QWEN),
    ):
        contenders = [*bench.ours(), *bench.judges("PIL backend", WHEEL, "pil")]
        if SIMD in bench.users:
            contenders.append(Contender(f"PIL backend, {SIMD}", bench.users[SIMD], "pil"))
        if bench.has_torchvision:
            contenders += bench.ours(reference="torchvision")
            contenders += bench.judges("torchvision backend", SIMD, "torchvision")
        if keys is _CLIP:
            contenders += [*bench.ours(fast=True), Contender("bare decode", wheel, "decode")]
        times = _times(contenders, keys, bench.pictures[size][: _COUNTS[size]], bench.rounds)
        yield {
            "case": f"JPEG {size} to {model}",
            "kind": "pictures",
            "rounds": bench.rounds,
            **_told(times),
            "ratios": _ratios(times, bench),
        }


def _ratios(times: Mapping[str, Sequence[float]], bench: Bench) -> dict[str, float]:
    """What the targets are about, beside each Pillow."""
    found = {}
    for pillow in bench.children:
        exact, fast = f"exact, {pillow}", f"fast, {pillow}"
        as_torchvision = f"exact as torchvision, {pillow}"
        for name, slow, quick in (
            (f"PIL backend ÷ exact, {pillow}", "PIL backend", exact),
            (f"PIL backend, {_SETTINGS} ÷ exact, {pillow}", f"PIL backend, {_SETTINGS}", exact),
            (f"torchvision backend ÷ exact, {pillow}", "torchvision backend", as_torchvision),
            (
                f"torchvision backend, {_SETTINGS} ÷ exact, {pillow}",
                f"torchvision backend, {_SETTINGS}",
                as_torchvision,
            ),
            (f"exact ÷ fast, {pillow}", exact, fast),
            (f"exact ÷ bare decode, {pillow}", exact, "bare decode"),
            (f"fast ÷ bare decode, {pillow}", fast, "bare decode"),
            (f"numpy path ÷ ours, {pillow}", "numpy path", f"ours, {pillow}"),
            (f"torch path ÷ ours, {pillow}", "torch path", f"ours, {pillow}"),
        ):
            if slow in times and quick in times:
                found[name] = _ratio(times[slow], times[quick])
    return found


def _sound(bench: Bench) -> dict[str, Any]:
    """Whisper's spectrum of 30 seconds, from samples at its own rate."""
    contenders = [
        Contender(f"ours, {pillow}", child, "mel of ours") for pillow, child in bench.children.items()
    ]
    contenders.append(Contender("numpy path", bench.users[WHEEL], "mel of the extractor"))
    if SIMD in bench.children and "torch" in bench.installed[SIMD]:
        contenders.append(Contender("torch path", bench.users[SIMD], "mel of the extractor"))
    nothing = _kept(bench.folder / "nothing", b"")
    times = _times(contenders, _WHISPER, [nothing] * _LOUD, bench.rounds)
    return {
        "case": "30 s of sound to Whisper's log-mel",
        "kind": "sound",
        "rounds": bench.rounds,
        **_told(times),
        "ratios": _ratios(times, bench),
    }


def _families(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every family of pictures beside its PIL backend, at 1080p; no bound but what the issue names."""
    wheel, paths = bench.children[WHEEL], bench.pictures["1920x1080"][:_FAMILY_COUNT]
    user = bench.users[WHEEL]
    for name in FAMILIES:
        if not hasattr(transformers, f"{name}Pil"):
            continue
        keys = FAMILY_CONFIGS[name]
        exact, judge = (
            Contender("exact", wheel, "ours", {"reference": "pil"}),
            Contender("PIL backend", user, "pil"),
        )
        times = _times([exact, judge], keys, paths, min(bench.rounds, FAMILY_ROUNDS))
        made = [
            each.child.ask(ask="sums", work=each.work, keys=keys, path=paths[0], **each.choice)
            for each in (exact, judge)
        ]
        yield {
            "case": f"{name} ({keys['_name_or_path']}), JPEG 1920x1080",
            "kind": "family",
            **_told(times),
            "ratio": _ratio(times["PIL backend"], times["exact"]),
            "bit_equal": all(made[1].get(output) == found for output, found in made[0].items()),
        }


def _errors(bench: Bench) -> Iterator[dict[str, Any]]:
    """How far fast is from exact, where a picture becomes smaller by 2 or more: in bytes, before normalising."""
    for size in (*_NEAR, *SIZES):
        paths = bench.pictures[size] if size in SIZES else _smaller(bench, size)
        found = bench.children[WHEEL].ask(ask="apart", keys=_CLIP, paths=paths)
        differ = [(mean, square) for mean, square in found if square]
        case = {
            "case": f"fast beside exact, JPEG {size} to CLIP 224",
            "kind": "error",
            "pictures": len(found),
        }
        decibels = [10 * math.log10(_PEAK**2 / square) for _, square in differ]
        # Where nothing differs there is no ratio of signal to noise.
        yield (
            case
            | {"differ": len(differ)}
            | (
                {
                    "mean_absolute_difference": round(max(mean for mean, _ in differ), 3),
                    "psnr_median_db": round(statistics.median(decibels), 2),
                    "psnr_min_db": round(min(decibels), 2),
                }
                if differ
                else {}
            )
        )


def _smaller(bench: Bench, size: str) -> list[str]:
    """The largest pictures at another size, of the same shape."""
    made = []
    for number, path in enumerate(bench.pictures["4000x3000"]):
        file = bench.folder / f"{size}-{number}.jpg"
        with Image.open(path) as picture:
            picture.resize(_NEAR[size], Image.Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY)
        made.append(str(file))
    return made


def _memory(bench: Bench) -> Iterator[dict[str, Any]]:
    """The most that one picture takes, in a child of its own each."""
    for size, kind, model, keys in _REMEMBERED:
        path, warm = (_saved(bench, name, kind) for name in (size, "small"))
        for mode in ("exact", "fast") if kind == "JPEG" and keys is _CLIP else ("exact",):
            with Child.of(_PREPARERS) as child:
                found = child.ask(ask="peak", keys=keys, path=path, warm=warm, fast=mode == "fast")
            decoded = 3 * math.prod(_size(size))
            yield {
                "case": f"memory, {kind} {size} to {model}, {mode}",
                "kind": "memory",
                "format": kind,
                "peak_mb": _mb(found["peak"]),
                "decoded_mb": _mb(decoded),
                "output_mb": _mb(found["output"]),
                "over_mb": _mb(found["peak"] - decoded - found["output"]),
            }


def _saved(bench: Bench, size: str, kind: str) -> str:
    """The first picture of a size, of the largest where it has none, as a file of that kind. "small": a small one."""
    source = bench.pictures[size if size in SIZES else "4000x3000"][0]
    path = bench.folder / f"{size}.{kind.lower()}"
    if not path.exists():
        with Image.open(source) as picture:
            made = picture if size in SIZES else picture.resize(_size(size))
            made.save(path, kind, quality=QUALITY)
    return str(path)


def _size(name: str) -> tuple[int, int]:
    """(width, height)."""
    if name == "small":
        return _SMALL
    width, height = map(int, name.split("x"))
    return width, height


def _missing(bench: Bench) -> Iterator[dict[str, Any]]:
    """What could not be judged here, and why."""
    if SIMD not in bench.children:
        why = f"there is no {_SIMD_PYTHON.relative_to(PROJECT)}: scripts/simd.sh makes it where it can"
        yield {"case": f"not measured, {why}: ours beside pillow-simd", "kind": "missing"}
    if not bench.has_torchvision:
        why = "torch and torchvision are not installed"
        yield {
            "case": f"not measured, {why}: the torchvision backend and the extractor's torch path",
            "kind": "missing",
        }


def _times(
    contenders: Sequence[Contender], keys: Keys, paths: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds a picture, a value a round, by contender; first each one prepares a picture unmeasured."""
    found: dict[str, list[float]] = {each.name: [] for each in contenders}
    for turn in range(-1, rounds):
        for each in contenders if turn % 2 else reversed(contenders):
            taken = paths if turn >= 0 else paths[:1]
            spent = each.child.ask(ask="spent", work=each.work, keys=keys, paths=taken, **each.choice)
            if turn >= 0:
                found[each.name].append(spent / len(taken) / 1e6)
    return found


def _told(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {f"{name}, ms": round(statistics.median(values), 2) for name, values in times.items()}


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def _mb(count: int) -> float:
    return round(count / (1 << 20), 2)


_BOUNDS: Final = (
    ("JPEG 1920x1080 to CLIP 224", "PIL backend ÷ exact", at_least, 3),
    ("JPEG 1920x1080 to CLIP 224", "torchvision backend ÷ exact", at_least, 1.9),
    ("JPEG 1920x1080 to CLIP 224", "exact ÷ fast", at_least, 1.4),
    ("JPEG 1920x1080 to CLIP 224", "exact ÷ bare decode", at_most, 1.25),
    ("JPEG 4000x3000 to CLIP 224", "PIL backend ÷ exact", at_least, 4),
    ("JPEG 4000x3000 to CLIP 224", "torchvision backend ÷ exact", at_least, 3.5),
    ("JPEG 4000x3000 to CLIP 224", "exact ÷ fast", at_least, 1.6),
    ("JPEG 1920x1080 to Qwen2-VL", "PIL backend ÷ exact", at_least, 3.5),
    ("30 s of sound to Whisper's log-mel", "numpy path ÷ ours", at_least, 6),
    ("30 s of sound to Whisper's log-mel", "torch path ÷ ours", at_least, 1.5),
)
"""What ratios must reach, beside either Pillow: case, ratio, and its bound."""


def targets(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the cases must reach. What was not measured has no target."""
    ratios = {case["case"]: case["ratios"] for case in cases if "ratios" in case}
    held = [
        bounded(f"{name}, {ratio}, {pillow}", found, bound)
        for name, ratio, bounded, bound in _BOUNDS
        for pillow in (WHEEL, SIMD)
        if (found := ratios[name].get(f"{ratio}, {pillow}")) is not None
    ]
    for case in cases:
        if case["kind"] == "error" and case["differ"]:
            named = case["case"]
            held += [
                at_most(f"{named}, mean absolute difference", case["mean_absolute_difference"], 1.2),
                at_least(f"{named}, median PSNR in dB", case["psnr_median_db"], 42),
                at_least(f"{named}, least PSNR in dB", case["psnr_min_db"], 34),
            ]
        if case["kind"] == "memory":
            named = f"{case['case']}, MB above picture and output"
            held.append(at_most(named, case["over_mb"], _SPARE / (1 << 20)))
    return held
