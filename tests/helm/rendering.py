"""The chart as Helm's own engine renders it, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "multimodal-sidecar"
EXAMPLES = {file.stem.removesuffix("-values"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))}


class Rendered:
    """What comes of values."""

    def __init__(self, values: Mapping[str, Any], name: str = "demo", chart: Path = CHART) -> None:
        with helm_python.Chart.load(str(chart)) as loaded:
            texts = loaded.render(dict(values), name=name, namespace="gpu")
        self.notes = next(text for path, text in texts.items() if path.endswith("NOTES.txt"))
        self.objects = [
            each
            for path, text in texts.items()
            if path.endswith(".yaml")
            for each in yaml.safe_load_all(text)
            if each
        ]

    def of(self, kind: str) -> list[Any]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str) -> Any:
        (found,) = self.of(kind)
        return found

    @property
    def mounted_config(self) -> Any:
        """The ConfigMap with the settings; dashboards lie in others."""
        (found,) = (each for each in self.of("ConfigMap") if "config.yaml" in each["data"])
        return found

    @property
    def template(self) -> Any:
        return self.one("Deployment")["spec"]["template"]

    @property
    def pod(self) -> Any:
        return self.template["spec"]

    @property
    def containers(self) -> dict[str, Any]:
        """All of them by name, init containers too."""
        return {each["name"]: each for each in [*self.pod.get("initContainers", []), *self.pod["containers"]]}

    @property
    def sidecar(self) -> Any:
        return self.containers["multimodal-sidecar"]

    @property
    def volumes(self) -> dict[str, Any]:
        return {each["name"]: each for each in self.pod["volumes"]}

    @property
    def settings(self) -> Any:
        return yaml.safe_load(self.mounted_config["data"]["config.yaml"])

    def mounted(self, folder: Path) -> Path:
        """The settings file, where the kubelet would put the ConfigMap's keys."""
        data = self.mounted_config["data"]
        items = {"config.yaml": "config.yaml"}
        if self.of("Deployment"):
            items = {
                each["key"]: each["path"]
                for each in self.volumes["multimodal-sidecar-config"]["configMap"]["items"]
            }
            assert items.keys() == data.keys()
        for key, path in items.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(data[key])
        return folder / "config.yaml"


def example(name: str) -> dict[str, Any]:
    """The values of one of ci/."""
    values: dict[str, Any] = yaml.safe_load(EXAMPLES[name].read_text())
    return values


def refusal(values: Mapping[str, Any]) -> str:
    """Why values are refused; fails where they are not."""
    try:
        with helm_python.Chart.load(str(CHART)) as chart:
            chart.validate_schema(dict(values))
            chart.render(dict(values), name="demo", namespace="gpu")
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError("nothing was refused")
