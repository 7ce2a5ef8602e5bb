"""Renders what `sidecar inject` and the Kustomize component add, from the chart's template; --check only compares.

So there is one template of the container: the chart's. It needs Helm's engine, and runs in .venv-chart.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).parents[1]
HELM: Final = ROOT / "helm"
CHART: Final = "multimodal-sidecar"
_MADE: Final = "# Made of helm/multimodal-sidecar by scripts/chart_part.py; do not edit.\n"
_COMPONENT: Final = """\
# Adds the sidecar to every Deployment and StatefulSet with the label multimodal-sidecar: inject, whose model server is
# a container named triton. config.yaml beside this file becomes its settings; overlays replace it by their own
# (behavior: replace). Triton's own arguments are yours: --allow-client-shm=true from 26.05 on.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
configMapGenerator:
  - name: multimodal-sidecar
    files: [config.yaml]
generatorOptions:
  # A name that stays lets the sidecar take up a new plan while it runs.
  disableNameSuffixHash: true
patches:
  - path: deployment.yaml
    target: {kind: Deployment, labelSelector: multimodal-sidecar=inject}
  - path: statefulset.yaml
    target: {kind: StatefulSet, labelSelector: multimodal-sidecar=inject}
"""


def rendered(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of the example chart that includes the named templates, with these values for the sidecar's."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "helm"
        shutil.copytree(HELM, copy)
        example = copy / "examples" / "beside-triton"
        helm_python.dependency_update(str(example))
        with helm_python.Chart.load(str(example)) as chart:
            texts = chart.render({CHART: dict(values)}, name=CHART, namespace="default")
    return [
        each
        for name, text in texts.items()
        if name.endswith(".yaml")
        for each in yaml.safe_load_all(text)
        if each
    ]


def part() -> dict[str, Any]:
    """What is added: the container in both forms, volumes, what the model server's container gets, and settings."""
    native, plain = (_pod(rendered({"sidecar": {"native": each}})) for each in (True, False))
    (config,) = (each for each in rendered({}) if each["kind"] == "ConfigMap")
    triton = native["containers"][0]
    return {
        "native": native["initContainers"][0],
        "plain": plain["containers"][1],
        "volumes": native["volumes"],
        "modelServer": {"volumeMounts": triton["volumeMounts"], "preStop": triton["lifecycle"]["preStop"]},
        "supplementalGroups": native["securityContext"]["supplementalGroups"],
        "terminationGracePeriodSeconds": native["terminationGracePeriodSeconds"],
        "config": yaml.safe_load(config["data"]["config.yaml"]),
    }


def _pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment")
    pod: dict[str, Any] = found
    return pod


def files() -> Mapping[Path, str]:
    """What is made, by where it lies."""
    made = part()
    pod = {
        "terminationGracePeriodSeconds": made["terminationGracePeriodSeconds"],
        "securityContext": {"supplementalGroups": made["supplementalGroups"]},
        "initContainers": [made["native"]],
        "containers": [
            {
                "name": "triton",
                "lifecycle": {"preStop": made["modelServer"]["preStop"]},
                "volumeMounts": made["modelServer"]["volumeMounts"],
            }
        ],
        "volumes": made["volumes"],
    }
    kinds = {
        f"{kind.lower()}.yaml": _MADE
        + _text(
            {
                "apiVersion": "apps/v1",
                "kind": kind,
                "metadata": {"name": "any"},
                "spec": {"template": {"spec": pod}},
            }
        )
        for kind in ("Deployment", "StatefulSet")
    }
    kustomize = kinds | {"config.yaml": _MADE + _text(made["config"]), "kustomization.yaml": _COMPONENT}
    return {ROOT / "sidecar" / "cli" / "injected.yaml": _MADE + _text(made)} | {
        HELM / "kustomize" / name: text for name, text in kustomize.items()
    }


def _text(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=1000)


def main() -> int:
    """Writes what is stale; with --check returns 1 where something is."""
    wanted = files()
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(str(path.relative_to(ROOT)) for path in stale)}: run make chart")
        return 1
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
