"""A model's directory -> its recipe: which file speaks, which family, and the table of families.

For each kind of media `processor_config.json` speaks where it has that kind's section (transformers 5
writes it so), else `preprocessor_config.json`. Where no file names a type, the `model_type` of config.json
does, through the pairs that transformers' own auto classes hold. Nothing is downloaded and no code of a
model's directory is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sidecar.errors import RecipeError
from sidecar.media import Modality
from sidecar.recipes.choice import Choice
from sidecar.recipes.config import Config
from sidecar.recipes.families import FAMILIES
from sidecar.recipes.model_types import MODEL_TYPES
from sidecar.recipes.recipe import Recipe

_VIDEO: Final = "video_preprocessor_config.json"
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
    def modality(self) -> Modality:
        """By its family's name."""
        return Modality.IMAGE if (self.family or "").endswith("ImageProcessor") else Modality.AUDIO

    @property
    def family(self) -> str | None:
        bare = self.processor.removesuffix("Fast").removesuffix("Pil")
        # Before transformers 5, image processors were feature extractors by name.
        names = (bare, bare.replace("FeatureExtractor", "ImageProcessor"))
        return next((name for name in names if name in FAMILIES), None)


def load_recipe(
    directory: Path,
    *,
    modality: Modality | None = None,
    reference: str = "auto",
    exact: bool = True,
    resampler: str = "soxr_hq",
    fast: bool = False,
) -> Recipe:
    """The recipe for the model whose files lie in `directory`.

    `modality` says which of its processors is meant where its files name several; `reference`, `exact`,
    `resampler` and `fast` are as Choice says. Raises RecipeError where a file is missing or
    is no JSON object, names a processor that is not supported, or holds a value that cannot be followed; and
    where `exact` is wanted and the libraries at hand cannot give it.
    """
    found = _processors(directory)
    families: dict[str, _Found] = {}
    for item in found:
        if item.family is not None and modality in {None, item.modality}:
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
            f"{directory} describes {named}, and a recipe follows one processor: say which by"
            " `modality`, image or audio, and serve both under two names",
            file=directory,
        )
    ((family, item),) = families.items()
    config = replace(item.config, processor=_beside(directory, _NESTED), model=_beside(directory, _MODEL))
    return FAMILIES[family](config, item.processor, Choice(reference, exact, resampler, fast))


def video_processor(directory: Path) -> str:
    """The processor for video that a directory's files name, "" for none. Video is not served yet; see `recipe show`.

    Raises RecipeError where a file is no JSON object.
    """
    nested, flat = (_read(directory / _NESTED) or {}).get("video_processor"), _read(directory / _VIDEO)
    keys = nested if isinstance(nested, dict) else flat or {}
    return str(keys.get("video_processor_type") or ("unnamed" if keys else ""))


def source_of(directory: Path, recipe: Recipe) -> str:
    """The file, and the section of it, whose keys a recipe of that directory follows."""
    return next(item.config.source for item in _processors(directory) if item.processor == recipe.processor)


def _beside(directory: Path, name: str) -> Config | None:
    values = _read(directory / name)
    return None if values is None else Config(str(directory / name), values)


def _processors(directory: Path) -> list[_Found]:
    """Every processor that the directory's files name; never none. Raises RecipeError."""
    if not _is_directory(directory):
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
        found += [_Found(name, unnamed[0]) for name in _by_model_type(directory, unnamed[0])]
    if not found:
        raise RecipeError(
            f"{directory} has no {_FLAT}, and no {_NESTED} with a section"
            f" {' or '.join(section for kind in _KINDS for section in kind.sections)}: copy them from the model's"
            " files",
            file=directory,
        )
    return found


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


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


def _by_model_type(directory: Path, config: Config) -> tuple[str, ...]:
    """The processors of config.json's model_type, for a file that names none. Raises RecipeError."""
    model = (_read(directory / _MODEL) or {}).get("model_type")
    processors = MODEL_TYPES.get(model, ()) if isinstance(model, str) else ()
    if not processors:
        keys = " or ".join(kind.type_key for kind in _KINDS)
        raise RecipeError(
            f"{config.source} names no processor ({keys}), and the model_type in {_MODEL} beside it is"
            f" {json.dumps(model)[:200]}; supported: {', '.join(FAMILIES)}",
            file=config.source,
            key="model_type",
            value=json.dumps(model)[:200],
            allowed=", ".join(MODEL_TYPES),
        )
    return processors


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
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{path} is nested too deeply, or holds too long a number", file=path) from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a JSON object, and holds {type(values).__name__}", file=path)
    return values
