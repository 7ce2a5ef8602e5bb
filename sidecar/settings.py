"""All settings of the server, composed of each component's own config.

Four sources, the later winning key by key: the defaults, one YAML file, the environment
(`SIDECAR_SERVER__DRAIN_S=5`: prefix, then the key with `__` between its parts), and flags
(`--set server.drain_s=5`). A value of null takes back what earlier sources say of the key. An unknown
key or a bad value is a SettingsError that names the key, the value, its source and what is allowed;
nothing is bound before all is well. The environment comes in as a mapping; this module never looks for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pydantic
import yaml

from sidecar.arena.arena import ArenaConfig
from sidecar.catalogue import ModelConfig
from sidecar.edge.callers.config import CallersConfig
from sidecar.edge.certificates import TlsConfig
from sidecar.edge.connections import ConnectionsConfig
from sidecar.edge.fetch.fetcher import FetchConfig
from sidecar.edge.open_inference.service import OpenInferenceConfig
from sidecar.edge.server import ServerConfig
from sidecar.errors import SettingsError
from sidecar.observe.logs import LogConfig
from sidecar.observe.metrics import MetricsConfig
from sidecar.observe.tracing import TracingConfig
from sidecar.observe.watcher import VerdictConfig
from sidecar.reuse.cache import CacheConfig
from sidecar.reuse.replays import ReplaysConfig
from sidecar.stages.admit.formats import FormatsConfig
from sidecar.stages.admit.gate import GateConfig
from sidecar.stages.admit.limits import Limits
from sidecar.stages.deliver.triton import TritonConfig
from sidecar.workers.plan import ThreadsConfig
from sidecar.workers.sandbox.config import SandboxConfig
from sidecar.workers.supervisor import WorkersConfig
from sidecar.workers.tuning import TunerConfig

ENV_PREFIX = "SIDECAR_"
_Key = tuple[str, ...]
# Keys that may be given one value, and what it is short for.
_SHORTHANDS: Mapping[_Key, _Key] = {
    ("triton",): ("triton", "address"),
    ("workers",): ("workers", "processes"),
    ("sandbox",): ("sandbox", "mode"),
}
# How alike a variable and a key must be for a slip, by difflib's ratio: `SIDECAR_LIMIT` has 0.92,
# Kubernetes' `SIDECAR_METRICS_PORT` for a Service named sidecar-metrics 0.78.
_SLIP = 0.8


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Each part is documented at its own class."""

    server: ServerConfig = field(default_factory=ServerConfig)
    connections: ConnectionsConfig = field(default_factory=ConnectionsConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    callers: CallersConfig = field(default_factory=CallersConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    open_inference: OpenInferenceConfig = field(default_factory=OpenInferenceConfig)
    log: LogConfig = field(default_factory=LogConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    verdict: VerdictConfig = field(default_factory=VerdictConfig)
    limits: Limits = field(default_factory=Limits)
    formats: FormatsConfig = field(default_factory=FormatsConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    threads: ThreadsConfig = field(default_factory=ThreadsConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    arena: ArenaConfig = field(default_factory=ArenaConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    replays: ReplaysConfig = field(default_factory=ReplaysConfig)
    triton: TritonConfig | None = None
    models: Mapping[str, ModelConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, model in self.models.items():
            if model.max_items > self.limits.items:
                raise SettingsError(
                    f"`models.{name}.max_items` has the value {model.max_items}, more than `limits.items`, "
                    f"which is {self.limits.items}: lower the one or raise the other",
                    key=f"models.{name}.max_items",
                    value=model.max_items,
                    allowed=f"0 to {self.limits.items}",
                )


@dataclass(frozen=True, slots=True)
class _Given:
    """A value, where it came from for messages, and what paths in it are relative to."""

    value: Any
    source: str
    base: Path = Path()


def load_settings(file: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()) -> Settings:
    """The settings from their sources. `overrides` are "key=value" texts. Raises SettingsError."""
    given: dict[_Key, _Given] = {}
    for key, item in chain(
        _from_file(file) if file is not None else (), _from_environment(environ), _from_overrides(overrides)
    ):
        if item.value is None:
            for taken_back in [known for known in given if known[: len(key)] == key]:
                del given[taken_back]
        else:
            given[key] = item
    return _rooted(_build(given), given)


def changed_keys(before: object, after: object, at: str = "") -> list[str]:
    """The keys, such as `gate.patience_s`, whose values differ between two settings, or two parts of them."""
    if before == after:
        return []
    if dataclasses.is_dataclass(before) and type(before) is type(after):
        return [
            key
            for part in dataclasses.fields(before)
            for key in changed_keys(
                getattr(before, part.name), getattr(after, part.name), f"{at}.{part.name}".lstrip(".")
            )
        ]
    return [at]


def slips(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables under the prefix that are no keys but look like one written wrong.

    The others are left alone: Kubernetes sets `SIDECAR_SERVICE_HOST`, `SIDECAR_PORT` and more in every
    pod beside a Service named sidecar.
    """
    keys = [part.replace("_", "") for part in _top()]
    for part, kind in _top().items():
        if dataclasses.is_dataclass(kind):
            keys += [f"{part}{each.name}".replace("_", "") for each in dataclasses.fields(kind)]
    return tuple(
        name
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX)
        and _key_of(name) is None
        and difflib.get_close_matches(_bare(name).replace("_", ""), keys, n=1, cutoff=_SLIP)
    )


def _from_file(file: Path) -> Iterator[tuple[_Key, _Given]]:
    try:
        text = file.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(
            f"the settings file {file} cannot be read: {error.strerror}", key="--config", value=file
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that there is not
        raise SettingsError(
            f"the settings file {file} is not valid YAML: {error}", key="--config", value=file
        ) from error
    if not isinstance(tree, dict | None):
        raise SettingsError(
            f"the settings file {file} must hold a mapping of keys at its top", key="--config", value=file
        )
    for key, value in (tree or {}).items():
        yield from _leaves((str(key),), _Given(value, str(file), file.parent))


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[_Key, _Given]]:
    for name, text in sorted(environ.items()):
        if (key := _key_of(name)) is not None:
            yield from _leaves(key, _Given(_parsed(text, name), f"environment variable {name}"))


def _key_of(variable: str) -> _Key | None:
    """The key that a variable sets: it has `__` in its name, or is a whole part's; None for any other."""
    key = tuple(_bare(variable).split("__"))
    return key if variable.startswith(ENV_PREFIX) and (len(key) > 1 or key[0] in _top()) else None


def _bare(variable: str) -> str:
    return variable.removeprefix(ENV_PREFIX).lower()


def _from_overrides(overrides: Sequence[str]) -> Iterator[tuple[_Key, _Given]]:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {text!r} is not of the form key=value", key="--set", value=text)
        yield from _leaves(tuple(key.split(".")), _Given(_parsed(value, key), f"--set {key}"))


def _leaves(key: _Key, item: _Given) -> Iterator[tuple[_Key, _Given]]:
    """The single keys that a value sets, each checked: a mapping's own, however deep, or the key itself."""
    if isinstance(item.value, dict) and item.value:
        for part, value in item.value.items():
            yield from _leaves((*key, str(part)), dataclasses.replace(item, value=value))
        return
    if not isinstance(item.value, dict | None):
        key = _SHORTHANDS.get(key, key)
    _check_key(key, item)
    yield key, item


def _parsed(text: str, name: str) -> object:
    """A value given as text, read as YAML so that numbers, lists and booleans are what they look like."""
    try:
        return yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(
            f"{name} has the value {text!r}, which is not valid YAML", key=name, value=text
        ) from error


def _check_key(path: _Key, item: _Given) -> None:
    """Walks the settings' classes along a key. Raises SettingsError where it leads nowhere."""
    here: Any = Settings
    for depth, part in enumerate(path):
        if _is_mapping(here):
            here = typing.get_args(here)[1]
            continue
        if not dataclasses.is_dataclass(here):
            key = ".".join(path[:depth])
            raise SettingsError(
                f"`{key}` takes one value and has no key `{part}` (from {item.source})",
                key=key,
                value=item.value,
            )
        kinds = _kinds(here)
        if part not in kinds:
            raise _unknown_key(".".join(path[: depth + 1]), part, sorted(kinds), item)
        here = kinds[part]
    key, wrong = ".".join(path), ""
    if (_is_mapping(here) or dataclasses.is_dataclass(here)) and not isinstance(item.value, dict | None):
        wrong = "it takes keys of its own and no single value"
    elif isinstance(item.value, bool) and here is not bool:
        # YAML reads `no` and `on` as truth values, and Python counts them as numbers.
        wrong = "it takes no true or false"
    if wrong:
        raise SettingsError(
            f"`{key}` has the value {item.value!r} (from {item.source}): {wrong}", key=key, value=item.value
        )


def _kinds(config: object) -> Mapping[str, Any]:
    """A config's keys and their types, without the None of those that may be left out."""
    return {name: _without_none(kind) for name, kind in typing.get_type_hints(config).items()}


def _top() -> Mapping[str, Any]:
    return _kinds(Settings)


def _is_mapping(kind: object) -> bool:
    return typing.get_origin(kind) is Mapping


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


def _build(given: Mapping[_Key, _Given]) -> Settings:
    tree: dict[str, Any] = {}
    for path, item in given.items():
        here = tree
        for part in path[:-1]:
            here = here.setdefault(part, {})
        if item.value == {}:
            here.setdefault(path[-1], {})  # adds a model without settings, and takes nothing away
        else:
            here[path[-1]] = item.value
    try:
        return _SETTINGS.validate_python(tree)
    except pydantic.ValidationError as error:
        raise _bad_value(error, given) from None


def _bad_value(error: pydantic.ValidationError, given: Mapping[_Key, _Given]) -> SettingsError:
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first["loc"])
    source = next((item.source for key, item in given.items() if key == path[: len(key)]), "the settings")
    key = ".".join(path)
    if first["type"] == "missing":
        return SettingsError(
            f"`{key}` is missing, and `{'.'.join(path[:-1])}` is nothing without it", key=key, value=""
        )
    return SettingsError(
        f"`{key}` has the value {first['input']!r} (from {source}): {first['msg'].lower()}",
        key=key,
        value=first["input"],
        allowed=first["msg"],
    )


def _rooted(settings: Settings, given: Mapping[_Key, _Given]) -> Settings:
    """Recipe directories named in the file are relative to the file, those from elsewhere to the process."""
    models = {
        name: dataclasses.replace(model, recipe=given["models", name, "recipe"].base / model.recipe)
        if model.recipe is not None
        else model
        for name, model in settings.models.items()
    }
    return dataclasses.replace(settings, models=models)


_SETTINGS = pydantic.TypeAdapter(Settings)
