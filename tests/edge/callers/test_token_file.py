"""Tokens from a file: hashed, taken back by a change of the file, and never told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.edge import watched
from sidecar.edge.callers.caller import Caller
from sidecar.edge.callers.token_file import TokenFile, made
from sidecar.errors import SettingsError, Unauthenticated


def written(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "tokens"
    file.write_text("\n".join(["# ours", "", *lines]))
    return file


def test_a_token_is_its_tenants_and_two_may_be_good_at_once(tmp_path: Path) -> None:
    (first, one), (second, two), (third, three) = made("agents"), made("agents"), made("batch jobs")
    tokens = TokenFile(written(tmp_path, one, two, f"  {three}  "))
    assert [tokens.caller(token) for token in (first, second, third)] == [
        Caller("agents"),
        Caller("agents"),
        Caller("batch jobs"),
    ]


@pytest.mark.parametrize("wrong", ["", "x", "a\udcff", "a" * 10_000])
def test_what_is_no_token_is_refused_in_words_without_it(tmp_path: Path, wrong: str) -> None:
    token, line = made("agents")
    tokens = TokenFile(written(tmp_path, line))
    for each in (wrong, token[:-1], token + "x", line, line.rpartition(":")[2]):
        with pytest.raises(Unauthenticated) as refused:
            tokens.caller(each)
        assert len(each) < 8 or each not in refused.value.message


def test_a_token_that_was_taken_back_is_good_no_longer_and_a_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "_LOOK_S", 0.0)
    (old, one), (new, two) = made("agents"), made("agents")
    tokens = TokenFile(written(tmp_path, one))
    assert tokens.caller(old)
    fresh = tmp_path / "fresh"
    fresh.write_text(two)
    fresh.replace(tmp_path / "tokens")
    assert tokens.caller(new) == Caller("agents")
    with pytest.raises(Unauthenticated):
        tokens.caller(old)


@pytest.mark.parametrize(
    "line", ["agents:s3cr3t", ":sha256:" + "0" * 64, "a:sha256:" + "g" * 64, "a:md5:00", "s3cr3t"]
)
def test_a_line_of_another_form_is_told_by_its_number_and_never_quoted(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=r"callers\.tokens.*line 3") as refused:
        TokenFile(written(tmp_path, line))
    assert "s3cr3t" not in refused.value.message
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("tenant", ["", "a:b", " a", "a" * 129, "a\nb:c"])
def test_no_token_is_made_for_a_tenant_that_cannot_be(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        made(tenant)
