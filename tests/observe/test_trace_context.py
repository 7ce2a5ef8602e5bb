"""What is read of a caller's trace, and what is handed on of it: W3C Trace Context, and never an error."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe.trace_context import TraceContext, continued, passed_on

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
IDS = f"{TRACE}-{SPAN}"

# What a caller says, and whether its trace is kept; None where it says nothing that counts (section 3.2).
CASES: Mapping[str, tuple[str, bool | None]] = {
    "a trace that is kept": (f"00-{IDS}-01", True),
    "a trace that is not": (f"00-{IDS}-00", False),
    "flags of which only the first is known": (f"00-{IDS}-ff", True),
    "flags that are all unknown": (f"00-{IDS}-fe", False),
    "nothing": ("", None),
    "upper case": (f"00-{IDS.upper()}-01", None),
    "upper case in the flags only": (f"00-{IDS}-0A", None),
    "a trace of zeros": (f"00-{'0' * 32}-{SPAN}-01", None),
    "a span of zeros": (f"00-{TRACE}-{'0' * 16}-01", None),
    "the version that is none": (f"ff-{IDS}-01", None),
    "version 00 with more": (f"00-{IDS}-01-what", None),
    "version 00 with a dash": (f"00-{IDS}-01-", None),
    "a later version": (f"01-{IDS}-01", True),
    "a later version with more": (f"cc-{IDS}-00-what-the-future-brings", False),
    "a later version with more and no dash": (f"cc-{IDS}-01.what", None),
    "a short trace": (f"00-{TRACE[1:]}-{SPAN}-01", None),
    "a long trace": (f"00-{TRACE}0-{SPAN}-01", None),
    "a short span": (f"00-{TRACE}-{SPAN[1:]}-01", None),
    "a long span": (f"00-{TRACE}-{SPAN}0-01", None),
    "a short version": (f"0-{IDS}-01", None),
    "short flags": (f"00-{IDS}-1", None),
    "long flags": (f"00-{IDS}-001", None),
    "no flags": (f"00-{IDS}", None),
    "no digits": (f"00-{'x' * 32}-{SPAN}-01", None),
    "digits of another script": (f"00-{'٣' * 32}-{SPAN}-01", None),
    "a line's end": (f"00-{IDS}-01\n", None),
    "another separator": (f"00_{TRACE}_{SPAN}_01", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_caller_s_word_counts_where_the_specification_lets_it(case: str) -> None:
    traceparent, sampled = CASES[case]
    expected = (
        None if sampled is None else TraceContext(int(TRACE, 16), int(SPAN, 16), int(SPAN, 16), sampled)
    )
    assert passed_on(traceparent, "") == expected


@pytest.mark.parametrize("case", CASES)
def test_a_call_belongs_to_its_caller_s_trace_or_begins_one(case: str) -> None:
    traceparent, sampled = CASES[case]
    context = continued(traceparent, "", ratio=0.0)
    if sampled is None:
        assert (context.parent_id, context.sampled) == (0, False)
        assert context.trace_hex != TRACE
    else:
        assert (context.trace_hex, context.parent_id, context.sampled) == (TRACE, int(SPAN, 16), sampled)
    assert context.span_id not in {0, int(SPAN, 16)}


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, {False}), (0.5, {False, True}), (1.0, {True})])
def test_of_calls_without_a_trace_a_part_is_kept(ratio: float, kept: set[bool]) -> None:
    assert {continued("", "", ratio).sampled for _ in range(200)} == kept


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("flag", ["00", "01"])
def test_of_calls_with_one_the_caller_decides(flag: str, ratio: float) -> None:
    assert continued(f"00-{IDS}-{flag}", "", ratio).sampled is (flag == "01")


@pytest.mark.parametrize(("length", "kept"), [(0, True), (512, True), (513, False), (100_000, False)])
def test_a_long_state_is_dropped_whole_and_the_trace_is_not(length: int, kept: bool) -> None:
    state = ("a=" + "b" * length)[:length]
    for context in (passed_on(f"00-{IDS}-01", state), continued(f"00-{IDS}-01", state, 0.0)):
        assert context is not None
        assert (context.trace_hex, context.state) == (TRACE, state if kept else "")


def test_a_state_without_a_trace_is_nobody_s() -> None:
    assert passed_on("", "a=b") is None
    assert not continued("", "a=b", 1.0).state


@given(st.text(), st.text(), st.floats(0, 1))
def test_no_text_is_an_error(traceparent: str, tracestate: str, ratio: float) -> None:
    passed_on(traceparent, tracestate)
    assert continued(traceparent, tracestate, ratio).span_id


@given(st.from_regex(r"\A[0-9a-fA-Fx]{1,3}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-.*)?\Z"), st.text())
def test_nor_is_one_that_looks_much_like_it(traceparent: str, tracestate: str) -> None:
    context = passed_on(traceparent, tracestate)
    if context is not None:
        assert traceparent[3:55] == context.traceparent[3:55]


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.booleans())
def test_what_is_handed_on_is_read_as_it_was_meant(trace_id: int, span_id: int, sampled: bool) -> None:
    context = TraceContext(trace_id, 0, span_id, sampled)
    assert passed_on(context.traceparent, "") == TraceContext(trace_id, span_id, span_id, sampled)


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.booleans())
def test_a_context_that_is_only_handed_on_stays_what_it_was(
    trace_id: int, span_id: int, sampled: bool
) -> None:
    said = TraceContext(trace_id, 0, span_id, sampled).traceparent
    context = passed_on(said, "")
    assert context is not None
    assert context.traceparent == said
