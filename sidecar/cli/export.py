"""`sidecar recipe export`: a recipe's normalisation for the model server's own device, as files of its repository.

Pixels then leave the sidecar as bytes, a quarter of FP32. Beside the ONNX model that makes values of them an
ensemble may be written that puts it before a model: what the ensemble takes and gives is what that model
takes and gives, but for UINT8 where the values went in. Nothing of other people's is written over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sidecar.errors import ModelMismatch, SettingsError
from sidecar.media import DataType
from sidecar.recipes.export import VALUES, Port, lookups, onnx_model
from sidecar.recipes.recipe import Recipe
from sidecar.stages.deliver.bindings import Bound, bind
from sidecar.stages.deliver.repository import (
    CONFIG,
    WRITTEN,
    Step,
    ensemble_config,
    onnx_config,
    read_config,
)
from sidecar.stages.deliver.upstream import Signature

_ONNX: Final = "1/model.onnx"

Files = Mapping[str, bytes]
"""A model's files, by their paths in its directory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. `name` is what the ONNX model is called in the repository.

    `data_type` None is FP32 and `max_batch_size` None 0; with a model to be put `before` both are that
    model's. `renames` maps an output of the recipe to an input of that model, as in the settings; `ensemble`
    is the ensemble's name.
    """

    repository: Path
    name: str
    data_type: DataType | None = None
    max_batch_size: int | None = None
    before: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    ensemble: str | None = None


def export(recipe: Recipe, wanted: Wanted) -> tuple[Path, ...]:
    """Writes the models, and returns their directories. Raises SetupError's leaves before anything is written."""
    return _write(
        wanted.repository,
        _alone(recipe, wanted) if wanted.before is None else _chained(recipe, wanted, wanted.before),
    )


def _alone(recipe: Recipe, wanted: Wanted) -> Mapping[str, Files]:
    """Without a batch axis items follow one another along the first: that of their rows, or one more."""
    if wanted.renames or wanted.ensemble is not None:
        raise SettingsError(
            "`--rename` and `--ensemble` speak of the model that takes the values: name it with `--before`",
            key="--before",
        )
    batch = wanted.max_batch_size or 0
    ports = [
        Port(
            lookup,
            lookup.output.shape if batch or lookup.output.rows else (-1, *lookup.output.shape),
            wanted.data_type or VALUES[0],
        )
        for lookup in lookups(recipe)
    ]
    return {wanted.name: _normalizer(recipe, wanted.name, ports, batch)}


def _chained(recipe: Recipe, wanted: Wanted, before: str) -> Mapping[str, Files]:
    if wanted.data_type is not None or wanted.max_batch_size is not None:
        raise SettingsError(
            "`--data-type` and `--max-batch-size` are those of the model named by `--before`: leave them out",
            key="--before",
        )
    model = read_config(wanted.repository, before)
    media = {
        bound.output.name: bound
        for bound in bind(recipe.outputs, recipe.accepts, model, renames=wanted.renames).media
    }
    ports = {
        media[lookup.output.name].input.name: Port(lookup, *_fed(media[lookup.output.name], before))
        for lookup in lookups(recipe)
        if lookup.output.name in media
    }
    name = wanted.ensemble or f"{before}_uint8"
    if name == wanted.name:
        raise SettingsError(
            f"two models cannot both be called {name!r}: choose another `--name` or `--ensemble`",
            key="--ensemble",
            value=name,
        )
    return {
        wanted.name: _normalizer(recipe, wanted.name, tuple(ports.values()), model.max_batch_size),
        name: {CONFIG: _ensemble(name, model, wanted.name, ports).encode()},
    }


def _fed(bound: Bound, before: str) -> tuple[tuple[int, ...], DataType]:
    """The shape that the model is fed with, and its type."""
    if bound.input.data_type not in VALUES:
        raise ModelMismatch(
            f"input {bound.input.name!r} of model {before!r} is {bound.input.data_type.value}, and what can be put"
            f" before it gives {' or '.join(kind.value for kind in VALUES)}",
            model=before,
            input=bound.input.name,
        )
    items = () if bound.items_axis is None else (bound.items_axis,)
    return (*items, *bound.output.shape), bound.input.data_type


def _normalizer(recipe: Recipe, name: str, ports: Sequence[Port], batch: int) -> Files:
    says = f"{recipe.processor}: bytes to the values that transformers' {recipe.reference} backend gives, to the bit"
    signature = Signature(
        name,
        "",
        tuple(port.input for port in ports),
        tuple(port.output for port in ports),
        batch,
        decoupled=False,
    )
    return {
        _ONNX: onnx_model(ports, says, batches=batch > 0),
        CONFIG: onnx_config(signature, says).encode(),
    }


def _ensemble(name: str, model: Signature, normalizer: str, ports: Mapping[str, Port]) -> str:
    """The ensemble's tensors are named as the model's; `ports` are by the inputs of the model that they feed."""
    values = {given: f"{given}_normalized" for given in ports}
    steps = (
        Step(
            normalizer,
            {port.input.name: given for given, port in ports.items()},
            {port.output.name: values[given] for given, port in ports.items()},
        ),
        Step(
            model.model,
            {spec.name: values.get(spec.name, spec.name) for spec in model.inputs},
            {spec.name: spec.name for spec in model.outputs},
        ),
    )
    inputs = tuple(
        replace(ports[spec.name].input, name=spec.name) if spec.name in ports else spec
        for spec in model.inputs
    )
    return ensemble_config(
        replace(model, model=name, inputs=inputs), steps, f"{model.model}, fed with bytes by {normalizer}"
    )


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise SettingsError(f"{path} cannot be looked at: {error}", key="--triton") from error


def _write(repository: Path, models: Mapping[str, Files]) -> tuple[Path, ...]:
    directories = tuple(repository / name for name in models)
    for name, directory in zip(models, directories, strict=True):
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"{name!r} is no name for a model: it is a directory's, 1 to 200 of letters, digits, `_`, `-` and `.`,"
                " and does not begin with `-` or `.`",
                key="--name",
                value=name,
            )
        if _exists(directory) and not _ours(directory):
            raise SettingsError(
                f"{directory} is there and was not written by this command: choose another name, or remove it",
                key="--name",
                value=name,
            )
    try:
        for directory, files in zip(directories, models.values(), strict=True):
            # Triton wants a version's directory of every model, of ensembles an empty one.
            (directory / "1").mkdir(parents=True, exist_ok=True)
            for path, content in files.items():
                (directory / path).write_bytes(content)
    except OSError as error:
        raise SettingsError(f"{repository} cannot be written: {error}", key="--triton") from error
    return directories


def _ours(directory: Path) -> bool:
    try:
        return (directory / CONFIG).read_text(encoding="utf-8").startswith(WRITTEN)
    except (OSError, UnicodeDecodeError):
        return False
