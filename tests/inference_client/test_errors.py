"""The client's error tree is the server's, and the guide knows all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import inference_client
from inference_client import connection, hedges
from inference_client import errors as ours
from sidecar import errors as theirs

GUIDE = Path(__file__).parents[2] / "docs" / "client.md"
# The server does not start with these, so no caller can meet them.
NEVER_SENT = {"SettingsError", "RecipeError"}
# About the way to the sidecar, so only the client can say them.
OURS_ALONE = {"TransportError", "ServerUnavailable", "BadReply"}


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def rows(root: type[Exception]) -> dict[str, tuple[str, bool, str]]:
    """Of each error: its reason, whether a retry can help, and its branch."""
    return {
        kind.__name__: (kind.reason, kind.retryable, kind.__base__.__name__)  # type: ignore[attr-defined, union-attr]  # both roots have them
        for kind in tree(root)
    }


def test_both_trees_have_the_same_names_reasons_and_branches() -> None:
    server, client = rows(theirs.SidecarError), rows(ours.SidecarError)
    assert {name: row for name, row in server.items() if name not in NEVER_SENT} == {
        name: row for name, row in client.items() if name not in OURS_ALONE
    }
    assert set(server) >= NEVER_SENT
    assert set(client) >= OURS_ALONE


def test_every_leaf_that_can_be_sent_is_known_by_its_reason() -> None:
    sent = {
        kind.reason: kind
        for kind in tree(ours.SidecarError)
        if issubclass(kind, ours.SidecarError) and "reason" in vars(kind)
    }
    del sent["SERVER_UNAVAILABLE"], sent["BAD_REPLY"]
    assert {**sent, "INTERNAL_ERROR": ours.InternalError} == dict(ours.BY_REASON)


@pytest.mark.parametrize("kind", list(tree(ours.SidecarError)), ids=lambda kind: kind.__name__)
def test_every_error_is_exported_documented_and_in_the_guide(kind: type[Exception]) -> None:
    assert getattr(inference_client, kind.__name__) is kind
    assert kind.__doc__
    assert f"`{kind.__name__}`" in GUIDE.read_text(encoding="utf-8")


def test_the_drawing_of_the_tree_names_every_error() -> None:
    drawn = (ours.__doc__ or "").split()
    assert {kind.__name__ for kind in tree(ours.SidecarError)} <= set(drawn)


def test_the_guides_table_of_defaults_is_true() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    assert f'`"{connection.DEFAULT_ADDRESS}"`' in guide
    assert f"| {connection.DEFAULT_TIMEOUT_S:g} s |" in guide
    assert f"| {connection.DEFAULT_UPLOAD_THRESHOLD // 2**20} MiB |" in guide
    assert f"up to {connection.DEFAULT_RETRIES.attempts} times" in guide
    assert f'`"{connection.DEFAULT_TENANT_KEY}"`' in guide
    usual = hedges.Hedges()
    assert f'| `after` | `"{usual.after}"` |' in guide
    assert f"| `budget` | {usual.budget} |" in guide
    assert f"last {hedges._MOST_SAMPLES} times" in guide
    assert f"once it has {hedges._LEAST_SAMPLES};" in guide
