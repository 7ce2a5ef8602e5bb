"""A model's directory -> its recipe: which file speaks, which family, and the table of families.

For each kind of media `processor_config.json` speaks where it has that kind's section (transformers 5
writes it so), else `preprocessor_config.json`. Where no file names a type, the `model_type` of config.json
does, through the pairs that transformers' own auto classes hold. Nothing is downloaded and no code of a
model's directory is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sidecar.errors import RecipeError
from sidecar.media import Modality
from sidecar.recipes.choice import Choice
from sidecar.recipes.clip import CLIP
from sidecar.recipes.config import Config
from sidecar.recipes.pixels import Defaults, pixel_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.recipes.vit import SIGLIP, VIT
from sidecar.recipes.wav2vec2 import wave_recipe
from sidecar.recipes.whisper import whisper_recipe


def _pixels(defaults: Defaults) -> Callable[[Config, str, Choice], Recipe]:
    return partial(_pixel_recipe, defaults)


def _pixel_recipe(defaults: Defaults, config: Config, processor: str, choice: Choice) -> Recipe:
    return pixel_recipe(config, processor, defaults, choice)


# The families: a processor's class name in transformers, bare of the suffixes Fast and Pil.
FAMILIES: Final[Mapping[str, Callable[[Config, str, Choice], Recipe]]] = {
    "CLIPImageProcessor": _pixels(CLIP),
    "SiglipImageProcessor": _pixels(SIGLIP),
    "ViTImageProcessor": _pixels(VIT),
    "Wav2Vec2FeatureExtractor": wave_recipe,
    "WhisperFeatureExtractor": whisper_recipe,
}

# transformers' auto classes (5.23), for files that name no type: config.json's model_type -> processor.
_MODEL_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "CLIPImageProcessor": (
        "aimv2", "aimv2_vision_model", "altclip", "clip", "florence2", "git", "groupvit", "kosmos-2",
        "metaclip_2", "mlcd", "vipllava", "xclip",
    ),
    "SiglipImageProcessor": ("colpali", "gemma3n", "paligemma", "siglip"),
    "ViTImageProcessor": (
        "clipseg", "dinat", "ijepa", "mgp-str", "swiftformer", "swin", "swinv2", "trocr", "vit", "vit_mae",
        "vit_msn",
    ),
    "Wav2Vec2FeatureExtractor": (
        "data2vec-audio", "hubert", "moonshine", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2",
        "wav2vec2-bert", "wav2vec2-conformer", "wavlm",
    ),
    "WhisperFeatureExtractor": (
        "audioflamingo3", "glmasr", "qwen2_5_omni", "qwen2_audio", "qwen3_omni_moe", "voxtral", "whisper",
    ),
}  # fmt: skip
_BY_MODEL_TYPE: Final = {model: processor for processor, models in _MODEL_TYPES.items() for model in models}

_NESTED: Final = "processor_config.json"
_FLAT: Final = "preprocessor_config.json"
_MODEL: Final = "config.json"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of media is named: the sections of the nested file, and the key that names the type."""

    modality: Modality
    sections: tuple[str, ...]
    type_key: str


_KINDS: Final = (
    _Kind(Modality.IMAGE, ("image_processor",), "image_processor_type"),
    _Kind(Modality.AUDIO, ("feature_extractor", "audio_processor"), "feature_extractor_type"),
)


@dataclass(frozen=True, slots=True)
class _Found:
    """A processor that the files name, and where; `family` is its key in FAMILIES, or None."""

    processor: str
    config: Config

    @property
    def family(self) -> str | None:
        bare = self.processor.removesuffix("Fast").removesuffix("Pil")
        # Before transformers 5, image processors were feature extractors by name.
        names = (bare, bare.replace("FeatureExtractor", "ImageProcessor"))
        return next((name for name in names if name in FAMILIES), None)


def load_recipe(
    directory: Path,
    *,
    reference: str = "auto",
    exact: bool = True,
    resampler: str = "soxr_hq",
    fast: bool = False,
) -> Recipe:
    """The recipe for the model whose files lie in `directory`.

    `reference`, `exact`, `resampler` and `fast` are as Choice says. Raises RecipeError where a file is missing or
    is no JSON object, names a processor that is not supported, or holds a value that cannot be followed; and
    where `exact` is wanted and the libraries at hand cannot give it.
    """
    found = _processors(directory)
    families: dict[str, _Found] = {}
    for item in found:
        if item.family is not None:
            families.setdefault(item.family, item)
    if not families:
        named = ", ".join(f"{item.processor} ({item.config.source})" for item in found)
        raise RecipeError(
            f"{directory}: no recipe for {named}; supported: {', '.join(FAMILIES)}, also with the endings Fast and Pil",
            file=directory,
            key="image_processor_type, feature_extractor_type",
            value=named,
            allowed=", ".join(FAMILIES),
        )
    if len(families) > 1:
        named = " and ".join(f"{family} ({item.config.source})" for family, item in families.items())
        raise RecipeError(
            f"{directory} describes {named}, and a recipe follows one processor: keep only the section of the"
            " one that is wanted in a directory of its own",
            file=directory,
        )
    ((family, item),) = families.items()
    return FAMILIES[family](item.config, item.processor, Choice(reference, exact, resampler, fast))


def _processors(directory: Path) -> list[_Found]:
    """Every processor that the directory's files name; never none. Raises RecipeError."""
    if not directory.is_dir():
        raise RecipeError(
            f"{directory} is not a directory: give the one with the model's {_FLAT}", file=directory
        )
    nested, flat = _read(directory / _NESTED) or {}, _read(directory / _FLAT)
    found = []
    unnamed: list[Config] = []
    for kind in _KINDS:
        config = _section(directory, kind, nested, flat)
        if config is None:
            continue
        name = config.values.get(kind.type_key)
        if name is None:
            unnamed.append(config)
        elif isinstance(name, str):
            found.append(_Found(name, config))
        else:
            raise config.refusal(kind.type_key, "the name of a processor")
    if not found and unnamed:
        found.append(_Found(_by_model_type(directory, unnamed[0]), unnamed[0]))
    if not found:
        raise RecipeError(
            f"{directory} has no {_FLAT}, and no {_NESTED} with a section"
            f" {' or '.join(section for kind in _KINDS for section in kind.sections)}: copy them from the model's"
            " files",
            file=directory,
        )
    return found


def _section(
    directory: Path, kind: _Kind, nested: Mapping[str, object], flat: Mapping[str, object] | None
) -> Config | None:
    """The keys that speak for a kind of media, or None where no file does."""
    for section in kind.sections:
        if section in nested:
            values = nested[section]
            if not isinstance(values, dict):
                raise Config(str(directory / _NESTED), nested).refusal(section, "an object")
            return Config(f"{directory / _NESTED}: {section}", values)
    return None if flat is None else Config(str(directory / _FLAT), flat)


def _by_model_type(directory: Path, config: Config) -> str:
    """The processor of config.json's model_type, for a file that names none. Raises RecipeError."""
    model = (_read(directory / _MODEL) or {}).get("model_type")
    processor = _BY_MODEL_TYPE.get(model) if isinstance(model, str) else None
    if processor is None:
        keys = " or ".join(kind.type_key for kind in _KINDS)
        raise RecipeError(
            f"{config.source} names no processor ({keys}), and the model_type in {_MODEL} beside it is"
            f" {json.dumps(model)}; supported: {', '.join(FAMILIES)}",
            file=config.source,
            key="model_type",
            value=json.dumps(model),
            allowed=", ".join(_BY_MODEL_TYPE),
        )
    return processor


def _read(path: Path) -> dict[str, object] | None:
    """A JSON object, or None where there is no such file. Raises RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path} is not JSON: {error.msg} at line {error.lineno}", file=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}", file=path) from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a JSON object, and holds {type(values).__name__}", file=path)
    return values
