"""gRPC's standard health service: what each service's state is, at once and whenever it changes.

grpcio-health-checking's own asyncio servicer writes to watchers under the lock that changes take, so that
one who does not read holds up every other and the server's end, and it forgets those who stay when one
leaves. Here each watcher waits for itself. It must never wait for a watcher.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_STATES: Mapping[bool, health_pb2.HealthCheckResponse] = MappingProxyType(
    {
        True: health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING),
        False: health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING),
    }
)
_UNKNOWN = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The states of services by name; the server's own is the empty name. Lives on one event loop."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, *, serving: bool) -> None:
        """Tells everybody who watches, each when it reads; states in between may pass unseen."""
        self._serving[service] = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def is_serving(self, service: str) -> bool:
        """The state now; false for a service that is not here."""
        return self._serving.get(service, False)

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is not here."""
        serving = self._serving.get(request.service)
        if serving is None:
            known = ", ".join(repr(name) for name in self._serving)
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}; there are: {known}"
            )
        return _STATES[serving]

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, _context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now, and again at each change, until the caller leaves."""
        told = None
        while True:
            changed = self._changed
            serving = self._serving.get(request.service)
            state = _UNKNOWN if serving is None else _STATES[serving]
            if state is not told:
                told = state
                yield state
            else:
                await changed.wait()
