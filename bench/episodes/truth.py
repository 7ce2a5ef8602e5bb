"""What was true of an episode: the accelerator's state at every instant, from records that the sidecar never sees.

    busy       an execution is on the accelerator's own record
    waiting    the model server has read a request, by its own trace, and its execution has not begun
    starved    a caller waits for an answer, and the model server has not read the request yet
    no demand  nobody waits

Where requests are held up on their way on purpose, `held_ns` of each are on the way and not starved. Times are
nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Moments = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Truth:
    """Parts of a window, 0 to 1, that add up to 1."""

    busy: float
    waiting: float
    starved: float
    no_demand: float


def truth(  # noqa: PLR0917 - a window, three records, and a correction of one
    begun_ns: int, ended_ns: int, executions: Moments, accepted: Moments, calls: Moments, held_ns: int = 0
) -> Truth:
    """What was true between two moments.

    `executions` are [n, 3] of began, ended, rows; `accepted` [n, 2] of when a request was read and when its execution
    began; `calls` [n, 2] of a call's sending and answer.
    """
    read, began = accepted[:, 0] - held_ns, accepted[:, 1]
    edges = np.unique(
        np.clip(
            np.concatenate([executions[:, :2].ravel(), read, began, calls.ravel(), [begun_ns, ended_ns]]),
            begun_ns,
            ended_ns,
        )
    )
    at, lengths = edges[:-1], np.diff(edges)
    busy = _open(executions[:, 0], executions[:, 1], at) > 0
    waiting = ~busy & (_open(read, began, at) > 0)
    asked = _open(calls[:, 0], calls[:, 1], at) > 0
    # Calls that were sent and have not been read; who was answered had been.
    behind = np.searchsorted(np.sort(calls[:, 0]), at, "right") > np.searchsorted(np.sort(read), at, "right")
    starved = ~busy & ~waiting & asked & behind
    whole = max(1, ended_ns - begun_ns)
    shares = [float(lengths[mask].sum()) / whole for mask in (busy, waiting, starved)]
    return Truth(shares[0], shares[1], shares[2], max(0.0, 1 - sum(shares)))


def _open(begun: Moments, ended: Moments, at: Moments) -> Moments:
    """How many intervals are open at each moment."""
    found: Moments = np.searchsorted(np.sort(begun), at, "right") - np.searchsorted(
        np.sort(ended), at, "right"
    )
    return found
