"""The chart's own check finds what it is for: a check that cannot fail is none."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.chart_check import linted, minors, wrong

ENV = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
PORTS = [{"containerPort": 1}, {"containerPort": 1}]


def pod(name: str = "p", **container: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"} | container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_the_three_newest_minors_are_asked_in_their_order() -> None:
    versions = [tuple(map(int, each.split("."))) for each in minors()]
    assert len(versions) == 3
    assert versions == sorted(versions)
    assert versions >= [(1, 35), (1, 36), (1, 37)]


def test_a_good_object_is_well() -> None:
    assert list(wrong(pod(), minors())) == []


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (pod(imge="x"), "not valid in"),
        (pod(ports=[{"containerPort": "many"}]), "not valid in"),
        (pod(name="n" * 64), "its name is too long"),
        (pod(env=ENV), '.env has "A" 2 times'),
        (pod(ports=PORTS), ".ports has 1 2 times"),
    ],
)
def test_what_is_wrong_is_told(thing: dict[str, Any], words: str) -> None:
    assert any(words in each for each in wrong(thing, minors()))


def test_lint_tells_of_values_that_are_none() -> None:
    assert linted({}, "1.36") == []
    assert any("nonsense" in each for each in linted({"nonsense": 1}, "1.36"))
