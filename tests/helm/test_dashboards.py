"""The dashboard is what its table says, has neither hole nor overlap, and says of each panel what it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest

from bench.queries import CHART, of_dashboard
from tests.helm.conftest import ROOT

BOARD: dict[str, Any] = json.loads((CHART / "dashboards" / "multimodal-sidecar.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def test_the_json_is_what_the_table_makes_of_it() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "dashboards.py", "--check"], check=False)
    assert done.returncode == 0


def test_it_is_found_again_after_an_update() -> None:
    assert BOARD["uid"] == "multimodal-sidecar"
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_data_source_pods_and_models_can_be_chosen() -> None:
    names = [variable["name"] for variable in BOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "pod", "upstream", "model"]


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_each_panel_says_what_it_shows_in_which_unit_of_the_chosen_source(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 7
    assert panel["fieldConfig"]["defaults"]["unit"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == source
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == source
        assert target["legendFormat"]


@pytest.mark.parametrize("query", list(of_dashboard("", BOARD)), ids=lambda query: query.where)
def test_each_query_keeps_to_the_chosen_pods(query: Any) -> None:
    assert 'namespace=~"$namespace"' in query.text or "variable" in query.where


def test_panels_fill_the_grid_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert all(0 <= place["x"] <= place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart
    area = sum(place["w"] * place["h"] for place in places)
    assert area == 24 * max(place["y"] + place["h"] for place in places)
