"""`sidecar inject`: Kubernetes objects in, the same out, with the sidecar beside their model server.

    sidecar inject --config sidecar.yaml < deployment.yaml | kubectl apply -f -

It reads and writes YAML, and talks to no cluster. Documents that it has nothing to do with come out as they came, to
the byte; those that it changes lose their comments. What it has done already it does again to the same end. What it
adds is rendered from the chart's own template (`injected.yaml`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, TextIO

import yaml

from sidecar.cli.injection import Addition, Spec, beside, grpc_port, model_server, quantity
from sidecar.errors import SettingsError
from sidecar.following import LIVE
from sidecar.settings import load_settings

_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
_NAME: Final = "multimodal-sidecar"
_RESTART: Final = "multimodal-sidecar/restart-for"
_CONFIG: Final = "config.yaml"
# What recipes are read from; weights and tokenizers stay where they are.
_RECIPE_FILES: Final = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "config.json",
)
_MAP_KEY: Final = re.compile(r"[-._a-zA-Z0-9]+")
# By YAML 1.2, 9.1.2: at a line's start it ends a document, whatever that is in the middle of.
_MARKER: Final = re.compile(r"^(?=---(?:\s|$))", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `sidecar inject`."""
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings to put into a ConfigMap beside the workload, with the recipes that they name",
    )
    settings.add_argument(
        "--config-map",
        metavar="NAME",
        help="use this ConfigMap, with a key config.yaml, that somebody else keeps",
    )
    parser.add_argument(
        "--recipe-file",
        action="append",
        default=[],
        metavar="NAME/FILE",
        help="a file of a recipe that --config-map has under the key recipes.NAME.FILE; may be repeated",
    )
    parser.add_argument("--image", metavar="NAME", help="the sidecar's image")
    parser.add_argument("--cpu", metavar="N", help="its CPUs, request and limit")
    parser.add_argument("--heap", metavar="SIZE", default="2Gi", help="its memory beside the shared memory")
    parser.add_argument("--shm", metavar="SIZE", help="the shared memory, where the pod has none yet")
    parser.add_argument(
        "--plain", action="store_true", help="as a container like any other, not a native sidecar"
    )
    parser.add_argument(
        "--workload", metavar="KIND/NAME", default="", help="only this one, such as deployment/triton"
    )
    parser.add_argument("--container", metavar="NAME", default="", help="the model server's container")
    parser.add_argument(
        "--client-shm",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether to add --allow-client-shm=true to Triton (default: by its image's release)",
    )


def inject(options: argparse.Namespace, source: TextIO | None = None) -> int:
    """Reads standard input, writes standard output. Raises SettingsError for what cannot be done."""
    text, notes = injected((source or sys.stdin).read(), wanted(options))
    sys.stdout.write(text)
    for note in notes:
        print(f"sidecar: {note}", file=sys.stderr)  # noqa: T201 - a command talks to its terminal
    return 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be added to which workload. `settings` go into a ConfigMap of our own, with `recipes` by name and
    file; None where `config_map` is somebody else's.
    """

    addition: Addition
    config_map: str
    settings: Spec | None
    recipes: Mapping[str, Mapping[str, str]]
    workload: str = ""
    container: str = ""


def wanted(options: argparse.Namespace) -> Wanted:
    """What the flags ask for. Raises SettingsError."""
    part = _part()
    container = dict(part["plain" if options.plain else "native"])
    if options.image:
        container["image"] = options.image
    if options.cpu:
        container["resources"] = {
            kind: {**each, "cpu": options.cpu} for kind, each in container["resources"].items()
        }
    settings, recipes = None, _named_files(options.recipe_file)
    if options.config_map is None:
        settings, recipes = _settings(part["config"], options.config)
        _check_ports(settings, container)
    # The chart's times are for its own `drain_s`; whoever drains longer is waited for longer.
    more_s = _drain_s(settings or part["config"]) - _drain_s(part["config"])
    name = options.config_map or _NAME
    addition = Addition(
        container=container,
        is_native=not options.plain,
        volumes=[_volume(each, name, recipes, options.shm) for each in part["volumes"]],
        server_mounts=part["modelServer"]["volumeMounts"],
        server_waits_s=part["modelServer"]["preStop"]["sleep"]["seconds"] + more_s,
        groups=part["supplementalGroups"],
        grace_s=part["terminationGracePeriodSeconds"] + more_s,
        heap_bytes=quantity(options.heap, "--heap"),
        client_shm=options.client_shm,
    )
    return Wanted(addition, name, settings, recipes, options.workload.lower(), options.container)


def injected(text: str, wanted: Wanted) -> tuple[str, list[str]]:
    """The stream with the sidecar in it, and what the operator should know. Raises SettingsError, also where nothing in
    it is a workload with a model server.
    """
    stream = _Stream(wanted)
    pieces = [stream.put(piece) for piece in _MARKER.split(text)]
    if not stream.done:
        raise _nothing(stream.seen, wanted)
    return "".join([*_ended(pieces), *(f"---\n{each}" for each in stream.maps.values())]), stream.notes


class _Stream:
    """What was met so far: workloads by kind and name, those that were done, and the ConfigMaps that they need."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.seen: list[str] = []
        self.done: list[str] = []
        self.notes: list[str] = []
        self.maps: dict[str, str] = {}

    def put(self, piece: str) -> str:
        """A document with the sidecar where it belongs; nothing for a ConfigMap of our own, which is made anew."""
        thing = _loaded(piece)
        if self._is_own_map(thing):
            return ""
        changed = self._visit(thing)
        return piece if changed == thing else f"---\n{_text(changed)}"

    def _visit(self, thing: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        if not isinstance(thing, dict):
            return thing
        kind = thing.get("kind")
        if kind == "List":
            items = thing.get("items") or ()
            return {**thing, "items": [self._visit(each) for each in items if not self._is_own_map(each)]}
        if kind != "Pod" and kind not in _KINDS:
            return thing
        metadata = thing.get("metadata") or {}
        name = f"{kind.lower()}/{metadata.get('name', '')}"
        self.seen.append(name)
        return thing if self._wanted.workload not in {"", name} else self._workload(thing, name, metadata)

    def _workload(self, thing: Spec, name: str, metadata: Spec) -> Spec:
        wanted = self._wanted
        is_pod = thing["kind"] == "Pod"
        template = thing if is_pod else (thing.get("spec") or {}).get("template") or {}
        pod = template.get("spec") or {}
        try:
            server = model_server(pod, wanted.container, wanted.addition.container["name"])
            if server is None:
                return thing
            made, notes = beside(pod, server, wanted.addition)
        except SettingsError as error:
            raise SettingsError(f"{name}: {error.message}", key=name, value=wanted.container) from error
        except (AttributeError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{name} is no {thing['kind']} that Kubernetes would take ({error!r}): check it first, with "
                "kubectl apply --dry-run=server",
                key=name,
                value="",
            ) from error
        self.done.append(name)
        self.notes += [f"{name}: {each}" for each in notes]
        template = {**template, "spec": made}
        if wanted.settings is not None:
            settings = _addressed(wanted.settings, grpc_port(server))
            namespace = metadata.get("namespace") or ""
            map_text = _text(_config_map(wanted, namespace, settings))
            if self.maps.setdefault(namespace, map_text) != map_text:
                raise SettingsError(
                    f"{name} has Triton at another port than the workload before it, and one ConfigMap is for both: "
                    "add them one by one, by --workload and --config-map",
                    key=name,
                    value=grpc_port(server),
                )
            if not is_pod:
                about = template.get("metadata") or {}
                annotations = {
                    **(about.get("annotations") or {}),
                    _RESTART: _digest(settings),
                }
                template["metadata"] = {**about, "annotations": annotations}
        return template if is_pod else {**thing, "spec": {**thing["spec"], "template": template}}

    def _is_own_map(self, thing: Any) -> bool:  # noqa: ANN401 - whatever YAML holds
        if self._wanted.settings is None or not isinstance(thing, dict) or thing.get("kind") != "ConfigMap":
            return False
        metadata = thing.get("metadata") or {}
        return metadata.get("name") == self._wanted.config_map and metadata.get("labels") == _LABELS


def _nothing(seen: Sequence[str], wanted: Wanted) -> SettingsError:
    there = ", ".join(seen) or f"no {', '.join((*_KINDS, 'Pod'))}"
    what = f"a container named {wanted.container}" if wanted.container else "a container that runs Triton"
    hint = "name it by --container" if not wanted.container else "check --container and --workload"
    return SettingsError(
        f"nothing to put the sidecar beside: among what was read there is {there}, and none has {what}; {hint}",
        key="--workload",
        value=wanted.workload,
    )


@cache
def _part() -> Any:  # noqa: ANN401 - as the chart rendered it
    return yaml.safe_load(
        resources.files("sidecar.cli").joinpath("injected.yaml").read_text(encoding="utf-8")
    )


def _volume(volume: Spec, config_map: str, recipes: Mapping[str, Mapping[str, str]], shm: str | None) -> Spec:
    """A volume of the chart's, with what was asked for in its place."""
    if "configMap" in volume:
        items = [
            *volume["configMap"]["items"],
            *({"key": key, "path": path} for key, path, _ in _files(recipes)),
        ]
        return {**volume, "configMap": {"name": config_map, "items": items}}
    if shm is not None and (volume.get("emptyDir") or {}).get("medium") == "Memory":
        quantity(shm, "--shm")
        return {**volume, "emptyDir": {**volume["emptyDir"], "sizeLimit": shm}}
    return volume


def _drain_s(settings: Spec) -> int:
    seconds: float = settings["server"]["drain_s"]
    return math.ceil(seconds)


def _check_ports(settings: Spec, container: Spec) -> None:
    """Raises SettingsError where the server would not listen where probes and scrapers look."""
    found = {"sidecar-grpc": settings["server"]["listen"], "sidecar-metrics": [settings["metrics"]["listen"]]}
    for port in container["ports"]:
        if not any(str(each).endswith(f":{port['containerPort']}") for each in found[port["name"]] if each):
            key = "server.listen" if port["name"] == "sidecar-grpc" else "metrics.listen"
            raise SettingsError(
                f"`{key}` has {found[port['name']]}, without an address at port {port['containerPort']}, where the "
                "container's probes and whoever scrapes it look: leave the key out, or add 0.0.0.0:"
                f"{port['containerPort']}",
                key=key,
                value=found[port["name"]],
            )


def _files(recipes: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Key, path and text of every file of recipes, as the chart lays them out."""
    for recipe, files in recipes.items():
        for file, text in files.items():
            yield f"recipes.{recipe}.{file}", f"recipes/{recipe}/{file}", text


def _named_files(names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    recipes: dict[str, dict[str, str]] = {}
    for name in names:
        recipe, slash, file = name.partition("/")
        if not (recipe and slash and file) or "/" in file:
            raise SettingsError(
                f"--recipe-file has {name!r}: write NAME/FILE, such as clip/preprocessor_config.json",
                key="--recipe-file",
                value=name,
            )
        recipes.setdefault(recipe, {})[file] = ""
    return recipes


def _settings(own: Spec, file: Path | None) -> tuple[Spec, Mapping[str, Mapping[str, str]]]:
    """The chart's own settings under those of a file, and the recipes that these name, by model.

    Raises SettingsError for settings that the server would not take.
    """
    if file is None:
        return own, {}
    load_settings(file, {})
    given = _without_nulls(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    for key, long in (("triton", "address"), ("workers", "processes")):
        if key in given and not isinstance(given[key], dict | None):
            given[key] = {long: given[key]}
    recipes: dict[str, Mapping[str, str]] = {}
    for name, model in (given.get("models") or {}).items():
        recipe = (model or {}).get("recipe")
        if recipe is None or Path(recipe).is_absolute():
            continue
        recipes[name] = _recipe(str(name), file.parent / recipe)
        model["recipe"] = f"recipes/{name}"
    return _laid(own, given), recipes


def _recipe(model: str, folder: Path) -> Mapping[str, str]:
    """The files of a recipe by name. Raises SettingsError where there are none, or a ConfigMap cannot hold them."""
    key = f"models.{model}.recipe"
    files = {
        each: (folder / each).read_text(encoding="utf-8")
        for each in _RECIPE_FILES
        if (folder / each).is_file()
    }
    if not files:
        raise SettingsError(
            f"`{key}` is {folder}, and none of {', '.join(_RECIPE_FILES)} is there: name the directory with the "
            "model's files, or an absolute path that a volume of the pod has",
            key=key,
            value=folder,
        )
    if not _MAP_KEY.fullmatch(model):
        raise SettingsError(
            f"the model {model!r} has a recipe, whose files become keys of a ConfigMap: its name may have letters, "
            "digits, `-`, `_` and `.` only; name it so, and the model server's name by `upstream`",
            key=key,
            value=model,
        )
    return files


def _without_nulls(given: Any) -> Any:  # noqa: ANN401 - trees of settings
    """A null takes back what sources before it say, and there is none before but what the container needs; only
    `triton` may be none.
    """
    if not isinstance(given, dict):
        return given
    return {
        key: _without_nulls(value) for key, value in given.items() if value is not None or key == "triton"
    }


def _laid(under: Any, over: Any) -> Any:  # noqa: ANN401 - trees of settings
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{key: _laid(under.get(key), value) for key, value in over.items()}}


def _addressed(settings: Spec, port: int) -> Spec:
    """Where nobody said where the model server is, it is beside, at its own port."""
    address = f"127.0.0.1:{port}"
    mine = _part()["config"]["triton"]["address"]
    triton = settings["triton"]
    return (
        {**settings, "triton": {**triton, "address": address}}
        if triton and triton["address"] == mine
        else settings
    )


_LABELS: Final[Mapping[str, str]] = {
    "app.kubernetes.io/name": _NAME,
    "app.kubernetes.io/managed-by": "sidecar-inject",
}


def _config_map(wanted: Wanted, namespace: str, settings: Spec) -> Spec:
    metadata = {
        "name": wanted.config_map,
        **({"namespace": namespace} if namespace else {}),
        "labels": dict(_LABELS),
    }
    files = {key: text for key, _, text in _files(wanted.recipes)}
    data = {_CONFIG: _text(settings)} | files
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _digest(settings: Spec) -> str:
    """Changes with what takes a restart: all settings but those that are followed live, as in the chart."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for part, _, name in (key.partition(".") for key in LIVE):
        if not name:
            kept.pop(part, None)
        elif part in kept and kept[part].get(name) != 0:
            kept[part].pop(name, None)
            if not kept[part]:
                del kept[part]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


_WITHOUT_DATES: Final = {
    first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML: no dates, which would come out in another form than they came in."""

    yaml_implicit_resolvers = _WITHOUT_DATES


class _Dumper(yaml.SafeDumper):
    """Texts of many lines as blocks, and what is the same twice is written twice."""

    yaml_implicit_resolvers = _WITHOUT_DATES

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base's own signature
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _loaded(piece: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    try:
        return yaml.load(piece, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(
            f"standard input is not valid YAML: {error}", key="standard input", value=""
        ) from error


def _text(value: object) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)


def _ended(pieces: Sequence[str]) -> Iterator[str]:
    """Each with a line's end, so that a document may follow it."""
    return (piece if not piece or piece.endswith("\n") else f"{piece}\n" for piece in pieces)
