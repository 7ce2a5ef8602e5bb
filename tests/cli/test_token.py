"""`sidecar token`: the token to one place, its line to another, and the two belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.cli.main import run
from sidecar.edge.callers.caller import Caller
from sidecar.edge.callers.token_file import TokenFile


def test_the_token_is_good_by_its_line_which_does_not_tell_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["token", "agents"], {}) == 0
    told = capsys.readouterr()
    (tmp_path / "tokens").write_text(told.err)
    assert TokenFile(tmp_path / "tokens").caller(told.out.strip()) == Caller("agents")
    assert told.out.strip() not in told.err


def test_a_name_that_cannot_be_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["token", "a:b"], {}) == 2
    assert "tenant" in capsys.readouterr().err
