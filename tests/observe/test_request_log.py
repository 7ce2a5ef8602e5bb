"""A line a request: which calls have one, how many it stands for, and what it says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia
from sidecar.media import DataType, Source, Tensor
from sidecar.observe.logs import JsonFormatter, LogConfig, RequestLog
from sidecar.observe.timings import Stage
from sidecar.observe.trace_context import TraceContext
from tests.observe.passages import START_NS, calls, item, passage

MS = 1_000_000
NOW_S = 1000.0


class Lines(logging.Handler):
    """The lines of requests, as the log's readers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.json: list[dict[str, Any]] = []
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        written = JsonFormatter().format(record)
        assert "\n" not in written
        self.json.append(json.loads(written))
        self.text.append(record.getMessage())

    def of(self, reason: str) -> list[dict[str, Any]]:
        """Those of calls that ended so."""
        return [line for line in self.json if line["reason"] == reason]

    @property
    def told(self) -> int:
        """How many calls the lines stand for."""
        return sum(int(line.get("stands_for", 1)) for line in self.json)


@contextmanager
def listening() -> Iterator[Lines]:
    lines, logger = Lines(), logging.getLogger("sidecar.requests")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
        logger.propagate = propagates


@pytest.fixture
def lines() -> Iterator[Lines]:
    with listening() as heard:
        yield heard


def a_log(requests: Literal["none", "sampled", "all"], per_s: float = 10.0) -> RequestLog:
    return RequestLog(LogConfig(requests=requests, requests_per_s=per_s))


class TestWhichCallsHaveALine:
    def test_none_where_it_is_off(self, lines: Lines) -> None:
        a_log("none").record(calls(["OK", "OVERLOADED"]), NOW_S)
        assert not lines.json

    def test_every_one_where_all_are_wanted(self, lines: Lines) -> None:
        a_log("all", per_s=1).record(calls(["OK"] * 50 + ["OVERLOADED"] * 50), NOW_S)
        assert len(lines.json) == lines.told == 100

    def test_every_one_of_a_quiet_server(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=10)
        for second in range(5):
            log.record(calls(["OK"] * 10), NOW_S + second)
        assert len(lines.json) == lines.told == 50

    def test_a_steady_part_of_a_busy_one_s(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=10)
        for half_second in range(20):
            log.record(calls(["OK"] * 500), NOW_S + half_second / 2)
        # A second's worth at first, then five each half of one.
        assert len(lines.json) == 10 + 19 * 5

    def test_a_pause_does_not_save_up_more_than_a_second_s_worth(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=3)
        log.record(calls(["OK"] * 100), NOW_S)
        log.record(calls(["OK"] * 100), NOW_S + 3600)
        assert len(lines.json) == 6

    def test_one_at_once_where_less_than_one_a_second_is_wanted(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=0.25)
        for second in range(9):
            log.record(calls(["OK"]), NOW_S + second)
        assert [line.get("stands_for", 1) for line in lines.json] == [1, 4, 4]

    def test_every_one_that_failed_and_those_take_nothing_from_the_others(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=2)
        log.record(calls(["OVERLOADED"] * 30 + ["OK"] * 5 + ["CORRUPT_MEDIA"] * 30), NOW_S)
        assert (len(lines.of("OVERLOADED")), len(lines.of("CORRUPT_MEDIA")), len(lines.of("OK"))) == (
            30,
            30,
            2,
        )
        assert all("stands_for" not in line for line in lines.of("CORRUPT_MEDIA"))

    def test_by_its_own_clock_too(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=5)
        log.record(calls(["OK"] * 5))
        log.record(calls(["OVERLOADED"]))
        assert len(lines.json) == 6


TURNS = st.lists(
    st.tuples(st.floats(0, 5), st.lists(st.sampled_from(["OK", "OK", "OVERLOADED"]), max_size=30))
)


@given(TURNS, st.floats(0.01, 50))
def test_lines_stand_for_all_calls_together_and_no_call_is_left_out_for_good(
    turns: Sequence[tuple[float, Sequence[str]]], per_s: float
) -> None:
    with listening() as lines:
        log, now_s, ended = a_log("sampled", per_s), NOW_S, 0
        for pause_s, reasons in turns:
            now_s += pause_s
            log.record(calls(reasons), now_s)
            ended += len(reasons)
        failed = sum(reasons.count("OVERLOADED") for _, reasons in turns)
        assert len(lines.of("OVERLOADED")) == failed
        # As many as there may be of the others, and one for what the numbers lose.
        assert len(lines.of("OK")) <= max(1.0, per_s) + per_s * (now_s - NOW_S) + 1
        assert lines.told <= ended
        # What the last lines left out, the next one stands for.
        log.record(calls(["OK"]), now_s + 1e6)
        assert lines.told == ended + 1


class TestWhatALineSays:
    def test_names_counts_and_milliseconds(self, lines: Lines) -> None:
        items = [
            item(cpu_ms=1.25),
            item(cpu_ms=2.0, problem=CorruptMedia("item 1 is cut short")),
        ]
        stages = (
            (Stage.RECEIVE, START_NS, START_NS + MS),
            (Stage.DECODE, START_NS + MS, START_NS + 4 * MS),
            (Stage.DECODE, START_NS + 4 * MS, START_NS + 4 * MS + 500_000),
        )
        ended = passage(
            *stages,
            items=items,
            request_id="r1",
            tenant="t1",
            trace=TraceContext(0xABC, 1, 2, sampled=False),
            ended_ns=START_NS + 12_345_678,
        )
        a_log("all").record([ended], NOW_S)
        (line,) = lines.json
        assert line.pop("time")
        assert line == {
            "level": "info",
            "logger": "sidecar.requests",
            "message": "preprocess of clip: OK in 12.3 ms",
            "verb": "preprocess",
            "model": "clip",
            "reason": "OK",
            "items": 2,
            "total_ms": 12.346,
            "cpu_ms": 3.25,
            "stages_ms": {"receive": 1.0, "decode": 3.5},
            "failed_items": ["CORRUPT_MEDIA"],
            "request_id": "r1",
            "tenant": "t1",
            "trace_id": f"{0xABC:032x}",
        }

    def test_what_a_call_has_not_is_not_told(self, lines: Lines) -> None:
        a_log("all").record([passage()], NOW_S)
        assert not {"failed_items", "request_id", "tenant", "trace_id", "stands_for"} & set(lines.json[0])

    def test_people_read_how_many_it_stands_for(self, lines: Lines) -> None:
        log = a_log("sampled", per_s=1)
        log.record(calls(["OK"] * 3), NOW_S)
        log.record(calls(["OVERLOADED", "OK"]), NOW_S + 1)
        assert lines.text == [
            "preprocess of clip: OK in 10.0 ms",
            "preprocess of clip: OVERLOADED in 10.0 ms",
            "preprocess of clip: OK in 10.0 ms (stands for 3)",
        ]
        assert lines.json[2]["stands_for"] == 3

    def test_nothing_of_media_or_of_what_is_said_of_it(self, lines: Lines) -> None:
        secret = b"nobody's business"
        one = item(problem=CorruptMedia(f"item 0 holds {secret!r}"))
        one.source = Source(secret, "business/plain", "item 0 (business.png)")
        one.tensors = (Tensor("pixels", DataType.UINT8, (len(secret),), secret),)
        a_log("all").record([passage(items=[one])], NOW_S)
        assert "business" not in json.dumps(lines.json)

    @pytest.mark.parametrize("length", [0, 1, 64, 65, 1_000_000])
    def test_of_a_request_s_id_no_more_than_its_beginning(self, lines: Lines, length: int) -> None:
        a_log("all").record([passage(request_id="é" * length)], NOW_S)
        assert lines.json[0].get("request_id", "") == "é" * min(length, 64)

    @given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"), max_size=128))
    def test_a_caller_s_text_stays_in_its_field_on_its_line(self, request_id: str, tenant: str) -> None:
        with listening() as lines:
            a_log("all").record([passage(request_id=request_id, tenant=tenant)], NOW_S)
        (line,) = lines.json
        assert (line.get("request_id", ""), line.get("tenant", "")) == (request_id[:64], tenant)
        assert lines.text == ["preprocess of clip: OK in 10.0 ms"]
