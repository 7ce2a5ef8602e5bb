"""No query of the chart asks for what the server does not export: a metric that is renamed breaks this first.

The server is a real one after real work: pictures and sounds to the real Triton, and calls that failed.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.request

import pytest

from bench.queries import (
    Exported,
    Query,
    complaints,
    exported,
    of_chart,
    of_dashboard,
    of_rules,
    of_template,
)
from inference_client import Client, MediaError
from tests import corpus
from tests.running import CHECKPOINTS, Running

QUERIES = of_chart()
SPEECH = CHECKPOINTS.parent / "media" / "speech.wav"


@pytest.fixture(scope="module")
def scrape(sidecar: Running) -> Exported:
    """What a server exports that has worked. Starved time is told once it is settled: by a look that comes after."""
    with Client(sidecar.address) as client:
        client.infer("clip", corpus.path("jpeg_420.jpg"))
        client.infer("wav2vec2", SPEECH)
        with pytest.raises(MediaError):
            client.infer("clip", b"nothing")
        while True:
            with urllib.request.urlopen(
                f"http://{sidecar.app.metrics_address}/metrics", timeout=10
            ) as answer:
                found = exported(answer.read().decode())
            if "sidecar_starved_seconds_total" in found.labels:
                return found
            client.infer("clip", corpus.path("jpeg_420.jpg"))


@pytest.mark.triton
def test_every_query_asks_for_what_a_running_server_exports(scrape: Exported) -> None:
    assert len(QUERIES) > 28
    assert complaints(QUERIES, scrape) == []


@pytest.mark.triton
def test_the_dashboard_shows_every_metric_that_a_running_server_exports(scrape: Exported) -> None:
    shown = " ".join(query.text for query in QUERIES if query.where.startswith("multimodal-sidecar.json"))
    made_of = ("_created", "_bucket", "_sum", "_count")
    assert [name for name in scrape.labels if not name.endswith(made_of) and name not in shown] == []


@pytest.mark.triton
def test_a_metric_that_is_renamed_is_missed_by_whoever_asks_for_it(scrape: Exported) -> None:
    asked = {
        name for query in QUERIES for name in re.findall(r"\bsidecar_\w+", query.text)
    } & scrape.labels.keys()
    assert len(asked) > 20
    for name in asked:
        renamed = {each: labels for each, labels in scrape.labels.items() if each != name}
        assert any(
            name in words for words in complaints(QUERIES, dataclasses.replace(scrape, labels=renamed))
        )


EXPORTED = Exported(
    {"sidecar_a_total": frozenset({"state", "model"}), "sidecar_b": frozenset()},
    {"state": frozenset({"busy"}), "model": frozenset({"clip"})},
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate(sidecar_c_total[1m])", "exports 'sidecar_c_total'"),
        ('sidecar_a_total{stage="decode"}', "the label 'stage'"),
        ('sidecar_a_total{state="idle"}', "no state 'idle'"),
        ('sidecar_calls_total{reason=~"OVERLOADED|TIRED"}', "exports 'sidecar_calls_total'"),
        ("sum by (modality) (sidecar_a_total)", "the label 'modality'"),
        ("sum without (modality) (sidecar_a_total)", "the label 'modality'"),
        ("sum by (state) (sum by (model) (sidecar_a_total))", "the label 'state'"),
        ("sidecar_a_total / on (pool) group_left sidecar_b", "the label 'pool'"),
        ("sidecar_a_total +", "is no PromQL"),
    ],
)
def test_what_cannot_be_asked_is_told_with_where_it_stands(text: str, words: str) -> None:
    (told,) = complaints([Query("a.yaml: A", text)], EXPORTED)
    assert told.startswith("a.yaml: A: ")
    assert words in told


def test_what_can_be_asked_is_not_complained_of() -> None:
    busy = 'rate(sidecar_a_total{state="busy",model=~"$model"}[5m])'
    fine = f"sum by (pod, state) ({busy}) / ignoring (state) group_left sidecar_b"
    assert complaints([Query("a", fine)], EXPORTED) == []


def test_recorded_names_may_be_asked_for_by_the_labels_that_they_have() -> None:
    recorded = Query("r", "sum by (state) (rate(sidecar_a_total[1m]))", "a:b:c")
    assert complaints([Query("a", 'a:b:c{state="busy"}'), recorded], EXPORTED) == []
    assert "'model'" in complaints([Query("a", 'a:b:c{model="clip"}'), recorded], EXPORTED)[0]


def test_a_reason_that_no_error_has_is_told() -> None:
    calls = Exported({"sidecar_calls_total": frozenset({"reason"})})
    asked = 'sidecar_calls_total{reason=~"OVERLOADED|UPSTREAM_(BUSY|TIRED)"}'
    assert complaints([Query("a", asked)], calls) == ["a: sidecar_calls_total has no reason 'UPSTREAM_TIRED'"]


def test_expressions_are_found_wherever_they_are_used() -> None:
    rule = {
        "alert": "A",
        "expr": "a > 1",
        "annotations": {"summary": '{{ with printf "b{x=%q}" $labels.x | query }}{{ . }}{{ end }}'},
    }
    assert [each.text for each in of_rules("r", {"groups": [{"rules": [rule]}]})] == ["a > 1", 'b{x="any"}']
    inner = {"title": "inner", "targets": [{"expr": "rate(c[$__rate_interval])"}]}
    variables = [
        {"name": "m", "type": "query", "query": {"query": "label_values(d, m)"}},
        {"type": "datasource"},
    ]
    board = {"panels": [{"title": "row", "panels": [inner]}], "templating": {"list": variables}}
    assert [each.text for each in of_dashboard("d", board)] == ["rate(c[5m])", "count by (m) (d)"]
    template = 'query: {{ printf "sum(e{%s})" $series | quote }}'
    assert [each.text for each in of_template("t", template)] == ["sum(e{})"]
