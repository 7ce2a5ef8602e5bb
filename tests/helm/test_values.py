"""The chart's values: every one documented, every level closed, and what is made of them up to date."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.chart_docs import CHART, files, values
from sidecar.settings import Settings, load_settings

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def levels(node: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema that says what it may hold, and where it stands."""
    if isinstance(node, list):
        for each in node:
            yield from levels(each, at)
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield at, node
        for key, below in node.items():
            yield from levels(below, f"{at}/{key}")


@pytest.mark.parametrize("path", list(files()), ids=lambda path: path.name)
def test_what_is_made_of_the_values_is_up_to_date(path: Path) -> None:
    assert path.read_text() == files()[path], "run python scripts/chart_docs.py"


def test_every_level_is_closed_but_those_that_are_kubernetes_own() -> None:
    found = dict(levels(SCHEMA))
    assert len(found) > 50
    for at, level in found.items():
        if at == "/properties/global":
            continue  # what parent charts hand down
        is_closed = level.get("additionalProperties", True) is not True
        assert is_closed or level.get("$comment", "").startswith("Kubernetes' own: "), at


def test_the_settings_below_config_are_all_that_the_server_has() -> None:
    assert SCHEMA["properties"]["config"]["properties"].keys() == set(Settings.__dataclass_fields__)


def test_the_chart_is_of_the_version_that_the_project_is() -> None:
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])


def test_a_value_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not say what a\.c is"):
        list(values("# Words.\na:\n  # Words.\n  b: 1\n  c: 2\n"))


@pytest.mark.parametrize("file", sorted((CHART / "ci").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_settings_of_every_example_are_the_servers(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(file.read_text()).get("config") or {})
    )
    load_settings(tmp_path / "config.yaml", {})
