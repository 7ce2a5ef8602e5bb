"""Alerts fire and stay silent as their unit tests say, by real promtool; each has such tests, and a runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.queries import CHART
from tests.helm.conftest import ROOT, Promtool

RULES = sorted((CHART / "rules").glob("*.yaml"))
CASES = sorted((Path(__file__).parent / "rules").glob("*.test.yaml"))
OPERATIONS = ROOT / "docs" / "operations.md"


def alerts() -> dict[str, dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def said() -> Iterator[tuple[str, bool]]:
    """By alert, whether a case says that it fires, or that it does not."""
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for each in case.get("alert_rule_test", ()):
                yield each["alertname"], bool(each["exp_alerts"])
            for each in case.get("promql_expr_test", ()):
                yield re.findall('alertname="(\\w+)"', each["expr"])[0], bool(each["exp_samples"])


def test_promtool_finds_no_fault_with_the_rules(promtool: Promtool) -> None:
    done = promtool("check", "rules", *RULES)
    assert (done.returncode, done.stderr) == (0, "")


def test_alerts_fire_and_stay_silent_as_their_unit_tests_say(promtool: Promtool) -> None:
    done = promtool("test", "rules", *CASES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(CASES)


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_is_tested_both_ways(alert: str) -> None:
    assert {(alert, True), (alert, False)} <= set(said())


@pytest.mark.full
@pytest.mark.full
@pytest.mark.parametrize("alert", alerts())
@pytest.mark.parametrize("instead", ["vector(0) > 1", "sidecar_ready >= 0 or on () vector(1)"])
def test_an_alert_that_never_fires_or_always_does_fails_its_unit_tests(
    alert: str, instead: str, promtool: Promtool, tmp_path: Path
) -> None:
    for path in RULES:
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if rule.get("alert") == alert:
                    rule["expr"] = instead
        (tmp_path / path.name).write_text(yaml.safe_dump(rules))
    cases = []
    for path in CASES:
        case = yaml.safe_load(path.read_text())
        case["tests"] = [each for each in case["tests"] if alert in str(each)]
        if not case["tests"]:
            continue
        case["rule_files"] = [path.name for path in RULES]
        cases.append(tmp_path / path.name)
        cases[-1].write_text(yaml.safe_dump(case))
    assert promtool("test", "rules", *cases).returncode == 1


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_says_how_grave_it_is_and_where_its_runbook_stands(alert: str) -> None:
    rule = alerts()[alert]
    assert alert.startswith("MultimodalSidecar")
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert {"summary", "description", "runbook"} == rule["annotations"].keys()
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"
    assert f"### {alert}\n" in OPERATIONS.read_text()


def test_the_guide_has_no_runbook_of_an_alert_that_is_gone() -> None:
    headings = re.findall("^### (MultimodalSidecar\\w+)$", OPERATIONS.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alerts())
