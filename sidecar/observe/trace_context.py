"""W3C Trace Context: who called, and what a call of ours is known by, as `traceparent` and `tracestate` say it.

Pure text and random numbers. What cannot be read is ignored, as the specification demands (section 3.2.2): a caller
with a broken header gets a trace of its own. It never raises.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Final

# version-traceid-parentid-flags, in lower case (W3C Trace Context, section 3.2). A later version may go on.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1
# What must be handed on of `tracestate` (section 3.3.1.5); longer ones are dropped whole.
_MOST_STATE: Final = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A call's place in a trace: the trace, the caller's span (0 for none), our own span, and whether it is kept."""

    trace_id: int
    parent_id: int
    span_id: int
    sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        """What whoever we call is told: the trace, and our span as its parent."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The same as metadata of a call, with the callers' own `tracestate`."""
        parent = (("traceparent", self.traceparent),)
        return (*parent, ("tracestate", self.state)) if self.state else parent

    @property
    def trace_hex(self) -> str:
        """The trace's number as logs and exemplars write it."""
        return f"{self.trace_id:032x}"


def continued(traceparent: str, tracestate: str, ratio: float) -> TraceContext:
    """The context of a call of ours whose caller said this; texts are empty where the caller said nothing.

    The caller's word decides whether the trace is kept; without a caller, `ratio` of them are.
    """
    caller = passed_on(traceparent, tracestate)
    if caller is None:
        sampled = random.random() < ratio  # noqa: S311 - no secret
        return TraceContext(_number(128), 0, _number(64), sampled)
    return replace(caller, span_id=_number(64))


def passed_on(traceparent: str, tracestate: str) -> TraceContext | None:
    """A caller's own context, for a call that makes no span of its own; None where the caller said nothing."""
    if not traceparent:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, parent_id = int(found[2], 16), int(found[3], 16)
    if not (trace_id and parent_id):
        return None
    state = tracestate if len(tracestate) <= _MOST_STATE else ""
    return TraceContext(trace_id, parent_id, parent_id, bool(int(found[4], 16) & _SAMPLED), state)


def _number(bits: int) -> int:
    """A random number that is not 0, which stands for none."""
    return random.getrandbits(bits) or 1
