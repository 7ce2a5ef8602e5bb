"""What a line of the log looks like."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest

from sidecar.observe.logs import JsonFormatter, UtcFormatter

CREATED = 1795248056.1239  # 2026-11-21 08:00:56 UTC


@pytest.fixture(autouse=True)
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(message: str) -> logging.LogRecord:
    made = logging.LogRecord("sidecar.x", logging.WARNING, __file__, 1, message, None, None)
    made.created = CREATED
    return made


def test_a_line_for_machines_is_one_object_with_its_time_in_utc() -> None:
    assert json.loads(JsonFormatter().format(record('a "b"\nc'))) == {
        "time": "2026-11-21T08:00:56.123Z",
        "level": "warning",
        "logger": "sidecar.x",
        "message": 'a "b"\nc',
    }


def test_a_line_for_people_has_the_same_time() -> None:
    line = UtcFormatter("%(asctime)s %(message)s").format(record("hello"))
    assert line == "2026-11-21T08:00:56.123Z hello"
