"""Holds every render of the chart against Helm's lint, Kubernetes' own schemas and a few rules of its own.

A render is one of helm/multimodal-sidecar/ci/*-values.yaml, the example chart that includes the named templates, or
workloads to which `sidecar inject` and, where there is kubectl, the Kustomize component added it. It runs in
.venv-chart, talks to no cluster, and leaves the renders in .cache/chart for other tools: NAME.yaml, NAME.json.
Exits with 1 where anything is wrong, after telling all of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import helm_python
import kubernetes_validate
import yaml

from scripts.chart_part import CHART, HELM, ROOT, rendered
from sidecar.cli import inject

OUT: Final = ROOT / ".cache" / "chart"
# How many of the newest Kubernetes minors each object must be valid for.
_MINORS: Final = 3
# Lists in a pod in which nothing may be named twice, and by what: server-side apply, Helm 4's default, refuses it.
_NAMED: Final = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort", "volumes": "name"}
# Kinds of operators, whose schemas Kubernetes does not have; scripts/chart_schemas has them.
_OPERATORS: Final = ("monitoring.coreos.com/", "keda.sh/")
Object = Mapping[str, Any]


def minors() -> list[str]:
    """The newest Kubernetes minors that there are schemas of, oldest first."""
    found = {tuple(map(int, each.split(".")[:2])) for each in kubernetes_validate.utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(found)[-_MINORS:]]


def renders() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The name of every render, and its objects."""
    with helm_python.Chart.load(str(HELM / CHART)) as chart:
        for file in sorted((HELM / CHART / "ci").glob("*-values.yaml")):
            texts = chart.render(
                yaml.safe_load(file.read_text(encoding="utf-8")), name="demo", namespace="gpu"
            )
            yield (
                file.stem.removesuffix("-values"),
                [
                    each
                    for name, text in texts.items()
                    if name.endswith(".yaml")
                    for each in yaml.safe_load_all(text)
                    if each
                ],
            )
    yield "example", rendered({})
    workloads = HELM / "examples" / "kustomize"
    text, _ = inject.injected(
        (workloads / "workloads.yaml").read_text(encoding="utf-8"),
        inject.wanted(_flags("--image", "sidecar:1")),
    )
    yield "injected", list(yaml.safe_load_all(text))
    if kubectl := shutil.which("kubectl"):
        built = subprocess.run(  # noqa: S603 - a folder of ours
            [kubectl, "kustomize", str(workloads)], stdout=subprocess.PIPE, text=True, check=True
        )
        yield "kustomize", list(yaml.safe_load_all(built.stdout))


def _flags(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    inject.add_arguments(parser)
    return parser.parse_args(flags)


def linted(values: Mapping[str, Any], minor: str) -> list[str]:
    """What Helm's strict lint has to say, for a Kubernetes minor."""
    found = helm_python.lint(str(HELM / CHART), dict(values), strict=True, kube_version=f"v{minor}.0")
    said = [f"{each.get('path')}: {each['error']}" for each in found["messages"]]
    # The one thing it may say: there is no picture for catalogues.
    return [each for each in said + found["errors"] if each != "Chart.yaml: icon is recommended"]


def wrong(thing: Object, versions: list[str]) -> Iterator[str]:
    """What is wrong with an object."""
    if not thing["apiVersion"].startswith(_OPERATORS):
        for version in versions:
            try:
                kubernetes_validate.validate(dict(thing), version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"not valid in {version}: {error.message} at {'.'.join(map(str, error.path))}"
    if len(thing["metadata"]["name"]) > 63:  # noqa: PLR2004 - a DNS label
        yield "its name is too long"
    yield from _twice(thing)


def _twice(node: Any, at: str = "") -> Iterator[str]:  # noqa: ANN401 - whatever YAML holds
    if isinstance(node, list):
        for each in node:
            yield from _twice(each, at)
    if isinstance(node, dict):
        for key, below in node.items():
            by = _NAMED.get(key)
            if by is not None and isinstance(below, list):
                names = Counter(
                    json.dumps(each[by]) for each in below if isinstance(each, dict) and by in each
                )
                yield from (
                    f"{at}.{key} has {name} {times} times" for name, times in names.items() if times > 1
                )
            yield from _twice(below, f"{at}.{key}")


def main() -> int:
    """Checks, and tells what was done."""
    OUT.mkdir(parents=True, exist_ok=True)
    versions, problems, checked = minors(), 0, 0
    for file in sorted((HELM / CHART / "ci").glob("*-values.yaml")):
        for version in versions:
            for said in linted(yaml.safe_load(file.read_text(encoding="utf-8")), version):
                print(f"{file.name}, lint for {version}: {said}")
                problems += 1
    for name, objects in renders():
        (OUT / f"{name}.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
        (OUT / f"{name}.json").write_text(json.dumps(objects), encoding="utf-8")
        for each in objects:
            checked += 1
            for problem in wrong(each, versions):
                print(f"{name}: {each['kind']} {each['metadata']['name']}: {problem}")
                problems += 1
        print(f"{name}: {', '.join(each['kind'] for each in objects)}")
    print(f"{checked} objects for Kubernetes {', '.join(versions)}: {problems} wrong")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
