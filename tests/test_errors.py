"""The error tree is whole: every leaf has a status, a name of its own, a sentence, and a row in the docs."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sidecar import errors
from sidecar.edge.respond import STATUS

DOCS = Path(__file__).parents[1] / "docs" / "errors.md"
# What a client's retry policy tries again; kept for what a later try can mend.
RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def walk(kind: type[errors.SidecarError]) -> Iterator[type[errors.SidecarError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from walk(child)


RAISED = [
    kind for kind in walk(errors.SidecarError) if "reason" in vars(kind) and kind is not errors.SidecarError
]


@pytest.mark.parametrize("kind", RAISED)
def test_every_error_has_a_row_in_the_status_table(kind: type[errors.SidecarError]) -> None:
    assert kind in STATUS


def test_the_status_table_has_no_row_for_what_is_not_in_the_tree() -> None:
    assert set(STATUS) == set(RAISED)


@pytest.mark.parametrize("kind", RAISED)
def test_every_error_has_a_row_in_the_docs(kind: type[errors.SidecarError]) -> None:
    assert f"| `{kind.reason}` | `{STATUS[kind].name}` |" in DOCS.read_text()


@pytest.mark.parametrize("kind", RAISED)
def test_every_error_stands_in_the_drawing_of_the_tree(kind: type[errors.SidecarError]) -> None:
    assert errors.__doc__ is not None
    assert f" {kind.__name__} " in errors.__doc__


def test_no_two_errors_share_a_name() -> None:
    assert len({kind.reason for kind in RAISED}) == len(RAISED)


@pytest.mark.parametrize("kind", RAISED)
def test_the_statuses_that_clients_retry_are_kept_for_errors_that_a_retry_can_mend(
    kind: type[errors.SidecarError],
) -> None:
    """But for the one whose push-back forbids it (edge/respond.py)."""
    assert (STATUS[kind] in RETRIED) == (kind.retryable or kind is errors.Unaffordable)


@pytest.mark.parametrize("kind", RAISED)
def test_errors_survive_a_process_boundary(kind: type[errors.SidecarError]) -> None:
    facts = {"retry_after_s": "0.5"} if issubclass(kind, errors.CapacityError) else {}
    error = kind("what was wrong", item="2", **facts)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.facts) == (kind, error.message, error.facts)
