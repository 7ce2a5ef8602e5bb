"""Makes the chart's values.schema.json and README.md, of values.yaml and the server's settings; --check only compares.

The comment above a key is its documentation, its default tells the type, and lines with @ refine that (see the head of
values.yaml). Every level of our own is closed; a type that is Kubernetes' own is handed on as it is, and marked so.
What stands below `config` is the server's settings themselves, so that a wrong one is refused before anything is
installed. It needs no Helm.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pydantic
import yaml

from sidecar.settings import Settings

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "helm" / "multimodal-sidecar"
Schema = dict[str, Any]

_KEY = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):")
_TYPES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
}
# Keys of JSON schemas that say nothing to who writes values; titles are pydantic's own, made of the names.
_WORDS = ("title", "format", "default", "description")
_HEAD = """\
# multimodal-sidecar

{description}.

Three ways to deploy it, with one container template behind them: `mode: bundle` (Triton with the sidecar beside it, for
a first try), `mode: inject` (the sidecar beside a model server that you have), `mode: pool` (sidecars alone on CPU
nodes). How, step by step: [docs/deploy.md](../../docs/deploy.md).

```
helm install demo helm/multimodal-sidecar -f my-values.yaml
```

`helm/multimodal-sidecar/ci/` has values for each way. Kubernetes {kubernetes}. This page is made of `values.yaml` by
`python scripts/chart_docs.py`.

## For other charts

A chart that has this one as a dependency, with `mode: inject`, includes these in its pod template, each given
`(index .Subcharts "multimodal-sidecar")`:

| template | where | what |
|---|---|---|
| `multimodal-sidecar.initContainers` | `initContainers`, first | the container, where it is native; a list |
| `multimodal-sidecar.containers` | `containers` | the container, where it is not; a list |
| `multimodal-sidecar.volumes` | `volumes` | its settings, /tmp and /dev/shm; a list |
| `multimodal-sidecar.modelServerMounts` | `volumeMounts` of the model server | /dev/shm; a list |
| `multimodal-sidecar.modelServerPreStop` | `lifecycle.preStop` of the model server | it waits for the drain |
| `multimodal-sidecar.podAnnotations` | `metadata.annotations` | changes with settings that take a restart |
| `multimodal-sidecar.grace` | `terminationGracePeriodSeconds` | a number |

`helm/examples/beside-triton` does so. The pod needs `securityContext.supplementalGroups: [10001]`, or both
containers cannot open the same shared memory.

## Values

| key | default | |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Value:
    """A key of values.yaml: where it stands, its default, what is said of it, and what refines its schema."""

    path: tuple[str, ...]
    default: Any
    words: str
    marks: Mapping[str, str]


def values(text: str) -> Iterator[Value]:
    """Every documented key, in order. Raises ValueError for one without a comment of its own."""
    tree = yaml.safe_load(text)
    comment: list[str] = []
    path: list[tuple[int, str]] = []
    opaque_from: int | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped[1:].strip())
            continue
        key = _KEY.match(line)
        if key is None:
            comment = []
            continue
        indent = len(key[1])
        if opaque_from is not None and indent > opaque_from:
            continue
        opaque_from = None
        path = [(at, name) for at, name in path if at < indent] + [(indent, key[2])]
        names = tuple(name for _, name in path)
        if not comment:
            raise ValueError(f"values.yaml does not say what {'.'.join(names)} is: write a comment above it")
        marks = dict(
            (*each[1:].partition(" ")[::2],) if " " in each else (each[1:], "")
            for each in comment
            if each[:1] == "@"
        )
        words = " ".join(each for each in comment if each[:1] != "@")
        default = tree
        for name in names:
            default = default[name]
        if "kubernetes" in marks or "map" in marks or "settings" in marks:
            opaque_from = indent
        yield Value(names, default, words, marks)
        comment = []


def schema(found: list[Value]) -> Schema:
    """The whole values.schema.json."""
    root: Schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}}
    root["additionalProperties"] = False
    settings, definitions = settings_schema()
    for value in found:
        here = root
        for name in value.path[:-1]:
            here = here["properties"][name]
        here["properties"][value.path[-1]] = _of(value, settings)
    return root | {"definitions": definitions}


def _of(value: Value, settings: Schema) -> Schema:
    made: Schema = {"description": value.words}
    if "settings" in value.marks:
        return made | settings
    made["type"] = _TYPES[type(value.default)]
    if "kubernetes" in value.marks:
        return made | {"$comment": f"Kubernetes' own: {value.marks['kubernetes']}"}
    if "map" in value.marks:
        return made | {"additionalProperties": {"type": value.marks["map"]}}
    refined: Schema = yaml.safe_load(value.marks.get("schema", "{}"))
    if made["type"] == "object":
        made["additionalProperties"] = False
        if "additionalProperties" not in refined:
            made["properties"] = {}
    return made | refined


def settings_schema() -> tuple[Schema, Schema]:
    """The server's settings as a schema, closed at every level, and the definitions that it refers to."""
    whole = pydantic.TypeAdapter(Settings).json_schema(ref_template="#/definitions/{model}")
    definitions = {name: _closed(each) for name, each in sorted(whole.pop("$defs").items())}
    closed: Schema = _closed(whole)
    return closed, definitions


def _closed(node: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Without words for people, and no key but those that there are."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: {name: _closed(each) for name, each in below.items()} if key == "properties" else _closed(below)
        for key, below in node.items()
        if key not in _WORDS
    }
    if "properties" in made:
        made["additionalProperties"] = False
    return made


def readme(found: list[Value]) -> str:
    """The chart's page."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    head = _HEAD.format(description=chart["description"], kubernetes=chart["kubeVersion"].removesuffix("-0"))
    return head + "".join(_row(value) for value in found)


def _row(value: Value) -> str:
    has_keys = (
        isinstance(value.default, dict) and value.default and not value.marks.keys() & {"kubernetes", "map"}
    )
    default = "" if has_keys else f"`{json.dumps(value.default, ensure_ascii=False)}`"
    words = value.words.replace("|", "\\|")
    if "kubernetes" in value.marks:
        words += f" ({value.marks['kubernetes']})"
    enum = yaml.safe_load(value.marks.get("schema", "{}")).get("enum")
    if enum:
        words += f" One of {', '.join(enum)}."
    return f"| `{'.'.join(value.path)}` | {default} | {words} |\n"


def files() -> Mapping[Path, str]:
    """What is made, by where it lies."""
    found = list(values((CHART / "values.yaml").read_text(encoding="utf-8")))
    return {
        CHART / "values.schema.json": json.dumps(schema(found), indent=1, ensure_ascii=False) + "\n",
        CHART / "README.md": readme(found),
    }


def main() -> int:
    """Writes what is stale; with --check returns 1 where something is."""
    wanted = files()
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        print(f"stale: {names}: run python scripts/chart_docs.py")
        return 1
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
