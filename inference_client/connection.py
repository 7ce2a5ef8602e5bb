"""How the sidecar is reached: address, limits of the channel, who calls, and gRPC's own retries.

Retries are gRPC's alone (its service config); no verb loops. gRPC retries a call only while nothing
of an answer has come, waits as long as the server's push-back says (`grpc-retry-pushback-ms`; a
negative one forbids the retry, which is how the server says "for good" by a status that is otherwise
retried), stays within the call's deadline, and stops for a while when most calls fail (retry throttling).
Diagnostics are not retried: who asks why nothing works is told at once that nothing answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from multimodal.v1 import diagnostics_pb2_grpc, preprocessor_pb2_grpc

# Where a sidecar listens unless told otherwise.
DEFAULT_ADDRESS = "127.0.0.1:50051"

# A call without a deadline is a leak. Long enough for a queue and a large model; out of the air.
DEFAULT_TIMEOUT_S = 30.0

# Media that makes a request larger than this travels in pieces, so that neither side holds it twice in
# one message. Half of the largest message that the sidecar takes by default (64 MiB).
DEFAULT_UPLOAD_THRESHOLD = 32 * 2**20

SERVICE = "multimodal.v1.Preprocessor"

# gRPC's own ceiling on attempts (gRFC A6).
_MOST_ATTEMPTS = 5
# A wait that gRPC rounds down to 0 ms is never over: the call hangs until its deadline (measured with
# grpcio 1.85: always for a push-back of 0, in half of the calls for a backoff of 1 ms, never from 10 ms).
_LEAST_BACKOFF_S = 0.01
# The statuses that the server keeps for refusals worth a retry.
RETRYABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
# Tokens of the retry throttle, as gRFC A6 suggests: a failed attempt takes one, a success gives 0.1
# back, and nothing is retried while half of them are gone.
THROTTLE_TOKENS = 10
THROTTLE_RATIO = 0.1
# Room for what a message carries beside its media, so that the largest inline request can be retried.
_REQUEST_SLACK = 4 * 2**20
# gRPC servers take pings more frequent than every 5 minutes for abuse unless configured otherwise, so
# this is that and a tenth, for clocks and the network. It finds a peer that vanished without closing.
_KEEPALIVE_MS = 330_000
_KEEPALIVE_TIMEOUT_MS = 20_000

# What the sidecar reads the tenant from, unless its settings name another.
DEFAULT_TENANT_KEY = "x-tenant-id"
# gRPC's rule for keys of text: lower case, and neither its own prefix nor the ending that says bytes.
_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a retryable refusal is tried in all, and the waits between: random up to each bound.

    The bound starts at `first_backoff_s`, grows by `factor`, and stays under `longest_backoff_s`.
    `attempts` is at most 5; 1 turns retries off. No wait is shorter than 10 ms.
    """

    attempts: int = 4
    first_backoff_s: float = 0.1
    longest_backoff_s: float = 2.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= _MOST_ATTEMPTS:
            raise ValueError(
                f"Retries.attempts is 1 to {_MOST_ATTEMPTS} (gRPC's ceiling); found {self.attempts}"
            )
        if min(self.first_backoff_s, self.longest_backoff_s) < _LEAST_BACKOFF_S or self.factor < 1:
            raise ValueError(
                f"Retries wait at least {_LEAST_BACKOFF_S} s and by a factor from 1; found {self}"
            )


DEFAULT_RETRIES = Retries()


@dataclass(frozen=True, slots=True)
class Line:
    """One way to a sidecar: its address, and how often gRPC tries there by itself."""

    address: str
    retries: Retries


def channel_options(retries: Retries, upload_threshold: int) -> list[tuple[str, Any]]:
    """The channel's settings, in gRPC's words."""
    return [
        ("grpc.service_config", service_config(retries)),
        ("grpc.enable_retries", int(retries.attempts > 1)),
        # Beyond what this holds a request is sent once only; gRPC's default is 256 KiB, less than a photo.
        ("grpc.per_rpc_retry_buffer_size", upload_threshold + _REQUEST_SLACK),
        # The server has limits and says which was passed; a second one here would only hide it.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # A sidecar is near: an `http_proxy` in the environment is meant for other traffic.
        ("grpc.enable_http_proxy", 0),
    ]


def rpcs(channel: grpc.Channel | grpc.aio.Channel) -> Mapping[str, Callable[..., Any]]:
    """What makes calls on `channel`, by RPC: no two services of the contract have one of the same name."""
    stubs = (preprocessor_pb2_grpc.PreprocessorStub, diagnostics_pb2_grpc.DiagnosticsStub)
    return {name: rpc for stub in stubs for name, rpc in vars(stub(channel)).items()}


def tenant_metadata(tenant: str, key: str) -> tuple[tuple[str, str], ...]:
    """The metadata that says who calls; none for no tenant. Raises ValueError for what gRPC cannot carry."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(
            "tenant_key is of a-z, 0-9, '_', '-' and '.', and neither begins with 'grpc-' nor ends with '-bin'; "
            f"found {key!r}"
        )
    if not (tenant.isascii() and tenant.isprintable() and tenant == tenant.strip()):
        raise ValueError(f"tenant is printable ASCII without spaces around it; found {tenant!r}")
    return ((key, tenant),) if tenant else ()


def service_config(retries: Retries) -> str:
    """GRPC's service config."""
    method: dict[str, Any] = {"name": [{"service": SERVICE}]}
    if retries.attempts > 1:
        method["retryPolicy"] = {
            "maxAttempts": retries.attempts,
            "initialBackoff": f"{retries.first_backoff_s}s",
            "maxBackoff": f"{retries.longest_backoff_s}s",
            "backoffMultiplier": retries.factor,
            "retryableStatusCodes": RETRYABLE,
        }
    throttle = {"maxTokens": THROTTLE_TOKENS, "tokenRatio": THROTTLE_RATIO}
    return json.dumps({"methodConfig": [method], "retryThrottling": throttle})
