"""All settings of the server, composed of each component's own config.

Four sources, the later winning key by key: the defaults, one YAML file, the environment
(`SIDECAR_SERVER__DRAIN_S=5`: prefix, then the key with `__` between its parts), and flags
(`--set server.drain_s=5`). An unknown key or a bad value is a SettingsError that names the key,
the value, its source and what is allowed; nothing is bound before all is well. The environment comes in
as a mapping; this module never looks for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from sidecar.catalogue import ModelConfig
from sidecar.edge.server import ServerConfig
from sidecar.errors import SettingsError
from sidecar.observe.logs import LogConfig
from sidecar.observe.metrics import MetricsConfig
from sidecar.stages.admit.gate import GateConfig
from sidecar.stages.admit.limits import Limits
from sidecar.stages.deliver.triton import TritonConfig
from sidecar.workers.plan import ThreadsConfig

ENV_PREFIX = "SIDECAR_"
# Keys that may be given one value, and what it is short for.
_SHORTHANDS: Mapping[tuple[str, ...], tuple[str, ...]] = {("triton",): ("triton", "address")}
# Variables under the prefix that are not keys of the settings.
_NOT_KEYS = {"SIDECAR_CONFIG"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Each part is documented at its own class."""

    server: ServerConfig = field(default_factory=ServerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    limits: Limits = field(default_factory=Limits)
    gate: GateConfig = field(default_factory=GateConfig)
    threads: ThreadsConfig = field(default_factory=ThreadsConfig)
    triton: TritonConfig | None = None
    models: Mapping[str, ModelConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it came from, for messages."""

    value: Any
    source: str


def load_settings(file: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()) -> Settings:
    """The settings from their sources. `overrides` are "key=value" texts. Raises SettingsError."""
    given: dict[tuple[str, ...], _Given] = {}
    base = Path()
    if file is not None:
        base = file.parent
        given.update(_from_file(file))
    given.update(_from_environment(environ))
    given.update(_from_overrides(overrides))
    given = {_SHORTHANDS.get(path, path): item for path, item in given.items() if item.value is not None}
    for path, item in given.items():
        _check_key(path, item)
    settings = _build(given)
    return _rooted(settings, base, given)


def _from_file(file: Path) -> Iterator[tuple[tuple[str, ...], _Given]]:
    try:
        text = file.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(
            f"the settings file {file} cannot be read: {error.strerror}", key="--config", value=file
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(
            f"the settings file {file} is not valid YAML: {error}", key="--config", value=file
        ) from error
    if tree is None:
        return
    if not isinstance(tree, dict):
        raise SettingsError(
            f"the settings file {file} must hold a mapping of keys at its top", key="--config", value=file
        )
    yield from _leaves(tree, (), str(file))


def _leaves(
    tree: Mapping[Any, Any], path: tuple[str, ...], source: str
) -> Iterator[tuple[tuple[str, ...], _Given]]:
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value:
            yield from _leaves(value, here, source)
        else:
            yield here, _Given(value, source)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], _Given]]:
    for name, text in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and name not in _NOT_KEYS:
            path = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
            yield path, _Given(_parsed(text, name), f"environment variable {name}")


def _from_overrides(overrides: Sequence[str]) -> Iterator[tuple[tuple[str, ...], _Given]]:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {text!r} is not of the form key=value", key="--set", value=text)
        yield tuple(key.split(".")), _Given(_parsed(value, key), f"--set {key}")


def _parsed(text: str, name: str) -> object:
    """A value given as text, read as YAML so that numbers, lists and booleans are what they look like."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise SettingsError(
            f"{name} has the value {text!r}, which is not valid YAML", key=name, value=text
        ) from error


def _check_key(path: tuple[str, ...], item: _Given) -> None:
    """Walks the settings' classes along a key. Raises SettingsError where it leads nowhere."""
    here: Any = Settings
    for depth, part in enumerate(path):
        here = _without_none(here)
        if typing.get_origin(here) is not None and issubclass(typing.get_origin(here), Mapping):
            here = typing.get_args(here)[1]
            continue
        if not dataclasses.is_dataclass(here):
            key = ".".join(path[:depth])
            raise SettingsError(
                f"`{key}` takes one value and has no key `{part}` (from {item.source})",
                key=key,
                value=item.value,
            )
        names = typing.get_type_hints(here)
        if part not in names:
            raise _unknown_key(".".join(path[: depth + 1]), part, sorted(names), item)
        here = names[part]
    if isinstance(item.value, bool) and here is not bool:
        # YAML reads `no` and `on` as truth values, and Python counts them as numbers.
        key = ".".join(path)
        raise SettingsError(
            f"`{key}` has the value {item.value!r} (from {item.source}): it takes no true or false",
            key=key,
            value=item.value,
        )


def _without_none(kind: object) -> object:
    """X of `X | None`, and anything else as it is."""
    if isinstance(kind, types.UnionType):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    return kind


def _unknown_key(key: str, part: str, names: Sequence[str], item: _Given) -> SettingsError:
    close = difflib.get_close_matches(part, names, n=1)
    hint = f"did you mean `{close[0]}`?" if close else "allowed here: " + ", ".join(names)
    return SettingsError(
        f"unknown key `{key}` (from {item.source}, value {item.value!r}): {hint}",
        key=key,
        value=item.value,
        allowed=", ".join(names),
    )


def _build(given: Mapping[tuple[str, ...], _Given]) -> Settings:
    tree: dict[str, Any] = {}
    for path, item in given.items():
        here = tree
        for part in path[:-1]:
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):
                inner = here[part] = {}
            here = inner
        here[path[-1]] = item.value
    try:
        return _SETTINGS.validate_python(tree)
    except pydantic.ValidationError as error:
        raise _bad_value(error, given) from None


def _bad_value(error: pydantic.ValidationError, given: Mapping[tuple[str, ...], _Given]) -> SettingsError:
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first["loc"])
    source = next((item.source for key, item in given.items() if key == path[: len(key)]), "the settings")
    key = ".".join(path)
    return SettingsError(
        f"`{key}` has the value {first['input']!r} (from {source}): {first['msg'].lower()}",
        key=key,
        value=first["input"],
        allowed=first["msg"],
    )


def _rooted(settings: Settings, base: Path, given: Mapping[tuple[str, ...], _Given]) -> Settings:
    """Recipe directories named in the file are relative to the file, those from elsewhere to the process."""
    models = {}
    for name, model in settings.models.items():
        item = given.get(("models", name, "recipe"))
        from_file = item is not None and not item.source.startswith(("--set", "environment"))
        recipe = base / model.recipe if model.recipe is not None and from_file else model.recipe
        models[name] = dataclasses.replace(model, recipe=recipe)
    return dataclasses.replace(settings, models=models)


_SETTINGS = pydantic.TypeAdapter(Settings)
