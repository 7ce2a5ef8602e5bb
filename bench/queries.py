"""Every PromQL expression of the chart, and whether it asks for what a running server exports.

Expressions are found where they are used: rules and their annotations, dashboards' panels and variables, and what KEDA
and the HPA ask. Each is parsed, and its metrics, labels and the values of closed labels are compared with a scrape. It
never evaluates one; that is the real Prometheus' part (bench/alerts.py).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.errors import SidecarError

CHART = Path(__file__).parents[1] / "helm" / "multimodal-sidecar"

# What scrapes and alerts add to every series, and no server exports.
OF_THE_SCRAPE: Final = frozenset(
    {"instance", "job", "namespace", "pod", "container", "alertname", "alertstate"}
)
# Labels of which every value is there from the start, so that one that a scrape lacks is one that there is not.
_CLOSED: Final = frozenset({"state", "pool"})
# What Grafana puts in, and something of its kind.
_GRAFANA: Final = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}
_OF_ANNOTATIONS: Final = re.compile(r'printf "((?:[^"\\]|\\.)*)"[^}]*\| query')
_OF_VARIABLES: Final = re.compile(r"label_values\((?:(.+),\s*)?(\w+)\)")
_OF_TEMPLATES: Final = re.compile(r'query: \{\{-? printf "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and where it stands; `records` is the name that a recording rule gives its outcome."""

    where: str
    text: str
    records: str = ""


@dataclass(frozen=True, slots=True)
class Exported:
    """What a scrape has: labels by the samples' names, and values by label."""

    labels: Mapping[str, frozenset[str]]
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)


def exported(text: str) -> Exported:
    """What a page of metrics tells."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    values: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels[sample.name] |= sample.labels.keys()
            for label, value in sample.labels.items():
                values[label].add(value)
    return Exported(
        {name: frozenset(told) for name, told in labels.items()},
        {label: frozenset(told) for label, told in values.items()},
    )


def of_chart(chart: Path = CHART) -> list[Query]:
    """Every expression of a chart's folder."""
    found: list[Query] = []
    for path in sorted((chart / "rules").glob("*.yaml")):
        found += of_rules(path.name, yaml.safe_load(path.read_text()))
    for path in sorted((chart / "dashboards").glob("*.json")):
        found += of_dashboard(path.name, json.loads(path.read_text()))
    for path in sorted((chart / "templates").glob("*.yaml")):
        found += of_template(path.name, path.read_text())
    if (values := chart / "values.yaml").exists():
        found.append(
            Query(
                "values.yaml: autoscaling.metric", yaml.safe_load(values.read_text())["autoscaling"]["metric"]
            )
        )
    return found


def of_rules(where: str, rules: Mapping[str, Any]) -> Iterator[Query]:
    """Those of Prometheus' rules, and those that annotations ask."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            yield Query(f"{where}: {name}", rule["expr"], rule.get("record", ""))
            for text in rule.get("annotations", {}).values():
                for asked in _OF_ANNOTATIONS.findall(text):
                    yield Query(f"{where}: {name}, an annotation", asked.replace("%q", '"any"'))


def of_dashboard(where: str, board: Mapping[str, Any]) -> Iterator[Query]:
    """Those of panels, also in rows, and of variables."""
    for panel in _panels(board["panels"]):
        for target in panel.get("targets", ()):
            yield Query(f"{where}: {panel['title']}", _filled(target["expr"]))
    for variable in board["templating"]["list"]:
        asked = variable.get("query")
        if variable["type"] == "query":
            text = asked["query"] if isinstance(asked, dict) else asked
            found = _OF_VARIABLES.fullmatch(text)
            if found is None:
                raise ValueError(
                    f"{where}: the variable {variable['name']} asks {text!r}, which is no label_values()"
                )
            series, label = found[1] or "{}", found[2]
            yield Query(
                f"{where}: the variable {variable['name']}", f"count by ({label}) ({_filled(series)})"
            )


def of_template(where: str, text: str) -> Iterator[Query]:
    """Those that a template of Helm's lays: what KEDA asks of Prometheus."""
    for asked in _OF_TEMPLATES.findall(text):
        yield Query(where, asked.replace("%s", "").replace('\\"', '"'))


def _panels(panels: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", ()))


def _filled(text: str) -> str:
    for variable, value in _GRAFANA.items():
        text = text.replace(variable, value)
    return text


def complaints(queries: Sequence[Query], scrape: Exported) -> list[str]:
    """What is wrong with each, in words; nothing where all is well."""
    known = dict(scrape.labels)
    wrong: list[str] = []
    # What rules record is there to be asked for too, by whatever labels they leave.
    for query in sorted(queries, key=lambda each: not each.records):
        try:
            expression = promql.parse(query.text)
        except ValueError as error:
            wrong.append(f"{query.where}: {query.text!r} is no PromQL: {error}")
            continue
        wrong += [f"{query.where}: {words}" for words in _wrong(expression, known, scrape)]
        if query.records:
            known[query.records] = _labels(expression, known)
    return wrong


def _wrong(expression: promql.Expr, known: Mapping[str, frozenset[str]], scrape: Exported) -> Iterator[str]:
    for node in _nodes(expression):
        if isinstance(node, promql.VectorSelector):
            yield from _wrong_selector(node, known, scrape)
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            yield from _unknown(node.modifier.labels, _labels(node.expr, known), "sums over")
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None:
            matching = node.modifier.matching
            named = [*(matching.labels if matching else ()), *(node.modifier.group_labels or ())]
            yield from _unknown(named, _labels(node.lhs, known) | _labels(node.rhs, known), "matches by")


def _wrong_selector(
    node: promql.VectorSelector, known: Mapping[str, frozenset[str]], scrape: Exported
) -> Iterator[str]:
    if node.name is None or node.name not in known:
        yield f"no running server exports {node.name!r}"
        return
    matchers = node.matchers.matchers
    yield from _unknown([each.name for each in matchers], known[node.name], f"asks {node.name} for")
    for each in matchers:
        if each.op != promql.MatchOp.Equal or "$" in each.value:
            values: Sequence[str] = _alternatives(each) if each.name == "reason" else ()
        else:
            values = [each.value]
        there = _REASONS if each.name == "reason" else scrape.values.get(each.name, frozenset())
        if each.name in _CLOSED or each.name == "reason":
            yield from (f"{node.name} has no {each.name} {value!r}" for value in values if value not in there)


def _alternatives(matcher: promql.Matcher) -> list[str]:
    """The reasons that a pattern of alternatives names, each of which there must be: those that fit, or itself."""
    if "$" in matcher.value:
        return []
    found = []
    for part in re.split(r"\|(?![^(]*\))", matcher.value):
        head, _, tail = part.partition("(")
        endings = tail.rstrip(")").split("|") if tail else [""]
        found += [f"{head}{ending}" for ending in endings]
    return [value for value in found if re.fullmatch(r"\w+", value)]


def _unknown(named: Sequence[str], there: frozenset[str], does: str) -> Iterator[str]:
    for label in named:
        if label not in there and label not in OF_THE_SCRAPE:
            yield f"it {does} the label {label!r}, which is not there: {', '.join(sorted(there)) or 'there is none'}"


def _labels(expression: promql.Expr, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Labels that an expression's outcome may have: those of the last sum, or of all that it asks for."""
    if isinstance(expression, promql.AggregateExpr) and expression.modifier is not None:
        inner, named = _labels(expression.expr, known), frozenset(expression.modifier.labels)
        return named if expression.modifier.type == promql.AggModifierType.By else inner - named
    if isinstance(expression, promql.ParenExpr):
        return _labels(expression.expr, known)
    if isinstance(expression, promql.BinaryExpr):
        return _labels(expression.lhs, known) | _labels(expression.rhs, known)
    names = [each.name for each in _nodes(expression) if isinstance(each, promql.VectorSelector)]
    return frozenset[str]().union(*(known.get(name or "", frozenset()) for name in names))


def _nodes(expression: promql.Expr) -> list[promql.Expr]:
    found: list[promql.Expr] = []
    promql.walk(expression, found.append)
    return found


def _reasons(root: type[SidecarError] = SidecarError) -> frozenset[str]:
    return frozenset({root.reason}).union(*(_reasons(branch) for branch in root.__subclasses__()))


_REASONS: Final = _reasons() | {"OK"}
