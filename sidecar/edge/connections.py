"""What one connection may do, and how many there may be: bounds against callers who mean harm or have gone astray.

gRPC keeps them, below all calls. A caller who passes one is told by HTTP/2's own means (GOAWAY, a refused stream), or
has its connection closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from annotated_types import Ge, Gt

_NEVER_MS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ConnectionsConfig:
    """`most`: connections of all callers together, an address; 0 for any number. `streams`: calls of one at once; more
    wait at the caller. `metadata_bytes`: of a call's metadata. `handshake_s`: how long one may take to begin.
    `least_ping_s`: pings more frequent than this, without data between them, are strikes, and more than `ping_strikes`
    end the connection; 0 strikes allow any. `idle_s`: how long one without calls stays; `age_s`: how long any does,
    its calls being given `age_grace_s` to finish; 0 for ever. `keepalive_s`: after so much silence it is asked for a
    sign of life, which may take `keepalive_timeout_s`.
    """

    # A few hundred agents with some connections each; out of the air.
    most: Annotated[int, Ge(0)] = 2000
    # Twice what `gate.max_queued` lets wait.
    streams: Annotated[int, Ge(1)] = 1024
    # gRPC's own upper bound. From its lower one, 8 KiB, on it refuses at random; here both are one.
    metadata_bytes: Annotated[int, Ge(4096)] = 16 * 1024
    handshake_s: Annotated[float, Gt(0)] = 20.0
    # gRPC's own numbers, which its clients are made for.
    least_ping_s: Annotated[float, Ge(0)] = 300.0
    ping_strikes: Annotated[int, Ge(0)] = 2
    idle_s: Annotated[float, Ge(0)] = 1800.0
    age_s: Annotated[float, Ge(0)] = 0.0
    age_grace_s: Annotated[float, Ge(0)] = 60.0
    # Finds callers who vanished without closing, before an hour of them has gathered.
    keepalive_s: Annotated[float, Gt(0)] = 600.0
    keepalive_timeout_s: Annotated[float, Gt(0)] = 20.0

    def options(self) -> Sequence[tuple[str, Any]]:
        """In gRPC's words."""
        return [
            *((("grpc.max_allowed_incoming_connections", self.most),) if self.most else ()),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_s)),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", int(self.least_ping_s * 1e3)),
            ("grpc.http2.max_ping_strikes", self.ping_strikes),
            ("grpc.max_connection_idle_ms", _ms(self.idle_s)),
            ("grpc.max_connection_age_ms", _ms(self.age_s)),
            ("grpc.max_connection_age_grace_ms", int(self.age_grace_s * 1e3)),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout_s)),
        ]


def _ms(seconds: float) -> int:
    """Milliseconds as gRPC counts them; 0 for never."""
    return min(_NEVER_MS, max(1, int(seconds * 1e3))) if seconds else _NEVER_MS
