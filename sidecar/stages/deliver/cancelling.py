"""Whether a model server lives through cancelled calls. Pure: a name and a version in, a verdict out.

Triton's gRPC front had races between a unary call's cancellation and its completion that end the server:
seen here in 2.51 after a few hundred cancelled calls, each time (`ASSERTION FAILED: prior > 0`, SIGABRT), and
reported to its makers as a cause of clusters that go down pod by pod, for restarts make more callers give up
(server issue 7368; mended in parts by pull request 7840, in 2.53, and 8078, in 2.57: read, not run).
"""

from __future__ import annotations

import re

_TRITON = "triton"
_MENDED = (2, 57)
_VERSION = re.compile(r"(\d+)\.(\d+)")


def survives_cancelling(name: str, version: str) -> bool:
    """By what a server says of itself in ServerMetadata; of other servers nothing bad is known."""
    if name != _TRITON:
        return True
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) >= _MENDED
