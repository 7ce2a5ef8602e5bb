"""What ended workers is known by its content, for a while."""

from __future__ import annotations

import pytest

from sidecar.errors import CorruptMedia
from sidecar.media import Source
from sidecar.workers.quarantine import Quarantine


def test_a_remembered_content_is_refused_under_any_name_and_from_any_memory() -> None:
    known = Quarantine(60)
    known.add(Source(b"deadly", label="item 0 (a.jpg)"))
    with pytest.raises(CorruptMedia, match=r"item 3 \(b.png\).*twice.*60 s") as caught:
        known.check(Source(memoryview(b"deadly"), label="item 3 (b.png)"))
    assert caught.value.facts == {"quarantined_s": "60"}


def test_other_contents_pass_also_those_of_equal_length() -> None:
    known = Quarantine(60)
    known.add(Source(b"deadly"))
    known.check(Source(b"decent"))
    known.check(Source(b"something longer"))


def test_nothing_is_hashed_while_no_content_of_that_length_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Quarantine(60)
    known.add(Source(b"deadly"))
    monkeypatch.setattr("hashlib.blake2b", None)
    known.check(Source(b"another length"))


def test_a_content_is_forgotten_after_its_time() -> None:
    known = Quarantine(0)
    known.add(Source(b"deadly"))
    known.check(Source(b"deadly"))
    assert len(known) == 0


def test_only_so_many_are_remembered_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.workers.quarantine._MOST", 2)
    known = Quarantine(60)
    for content in (b"1", b"2", b"3"):
        known.add(Source(content))
    known.check(Source(b"1"))
    with pytest.raises(CorruptMedia):
        known.check(Source(b"2"))
