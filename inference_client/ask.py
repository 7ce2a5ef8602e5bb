"""When a call asks to be let in before it sends its media, as HTTP's `Expect: 100-continue` does.

A call that is refused after its media has come has cost the network its bytes and the sidecar its time. One
that asks first tells the facts of its media in its metadata, and holds its message back until the sidecar
sends initial metadata; a refusal then comes without. That costs a call that is let in a round trip, so
by default it is done only while the sidecar pushes calls back, and shortly after.

State and decisions, the same for both clients: the message itself is held back in held.py, what it brings
is read in facts.py. Safe between threads: what is noted here is one value each, and the last one counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, get_args

from multimodal.v1 import preprocessor_pb2

from inference_client.connection import RETRYABLE
from inference_client.errors import SidecarError

AskFirst: TypeAlias = Literal["auto", "always", "never"]

# What the sidecar reads them from.
_FACTS_KEY, _ASK_KEY = "x-media-facts-bin", "x-media-ask-first"
# What it says when it lets a call in. A refusal's metadata, which come first too, are without.
_LET_IN_KEY = "x-media-let-in"
# The status of a sidecar that has too much to do.
_PUSHED_BACK = "RESOURCE_EXHAUSTED"
# A smaller request is quicker sent than asked about: a round trip, and 100 µs or so. Bytes; out of the air.
_LEAST_BYTES = 16 * 2**10
# How long after a push-back is over calls still ask. Long enough to see the next one; out of the air.
_LINGER_S = 10.0
# How long a message is held back for a sidecar that may be too old to know of this, and so will not say a word
# before the message has come; and for one that has let calls in before their message, where the word may be
# late because gRPC waits out a push-back. Never more than this share of what is left of the call's time.
_PATIENCE_S, _LONGER_PATIENCE_S = 0.2, 2.0
_SHARE = 0.25


class Asking:
    """Whether the calls of one client ask first, by what it saw of its sidecar.

    `clock` gives seconds and never goes back. Raises ValueError for a `when` that is none.
    """

    def __init__(self, when: AskFirst, clock: Callable[[], float] = time.monotonic) -> None:
        if when not in get_args(AskFirst):
            raise ValueError(f"ask_first is one of {', '.join(get_args(AskFirst))}; found {when!r}")
        self._when = when
        self._clock = clock
        self._until = math.inf if when == "always" else -math.inf
        self._is_known = False

    def asks(self, request_bytes: int) -> bool:
        """Whether a call whose media and inputs take so many bytes asks first now."""
        return request_bytes > _LEAST_BYTES and self._clock() < self._until

    def note(self, error: SidecarError, pushback_s: float | None) -> None:
        """Notes a failed call. `pushback_s`: seconds, infinity for never, None where nothing was said."""
        wait = error.retry_after_s if pushback_s is None else pushback_s
        if self._when != "auto" or error.status != _PUSHED_BACK or wait is None or wait == math.inf:
            return
        self._until = max(self._until, self._clock() + wait + _LINGER_S)

    def note_word(self, *, came: bool) -> None:
        """Notes whether the sidecar's word came while the message was held back."""
        self._is_known = came

    def patience_s(self, left_s: float) -> float:
        """How long to hold a message back of a call with `left_s` to go. Seconds."""
        return min(_LONGER_PATIENCE_S if self._is_known else _PATIENCE_S, left_s * _SHARE)


def again_in_s(error: SidecarError, left_s: float) -> float | None:
    """When a call may begin anew that was let in and failed all the same, in seconds; None: never.

    The queue may be full when the message comes. gRPC tries such a call no more: being let in is a part of an
    answer to it. So the client does, by the same rules, but once.
    """
    wait = error.retry_after_s
    mends = error.status in RETRYABLE and error.retryable and wait is not None and wait < left_s
    return wait if mends else None


def is_let_in(initial: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether a call's initial metadata say that its message may come."""
    return any(key == _LET_IN_KEY for key, _ in initial or ())


def metadata(facts: preprocessor_pb2.EstimateRequest) -> tuple[tuple[str, str | bytes], ...]:
    """What says that a call asks first, and of what."""
    return ((_FACTS_KEY, facts.SerializeToString()), (_ASK_KEY, "1"))
