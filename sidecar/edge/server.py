"""Bind, serve, drain, stop.

The server binds what it is told to and nothing else, tells its health by name, and never drops a call
that it has accepted: on the way out it refuses new ones and waits for the others, up to a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import grpc
from annotated_types import Ge, Gt
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from multimodal.v1 import (
    diagnostics_pb2,
    diagnostics_pb2_grpc,
    preprocessor_pb2,
    preprocessor_pb2_grpc,
)

from sidecar.addresses import is_host_port, is_unix
from sidecar.edge.around import Around, Drain
from sidecar.edge.diagnostics import Diagnostics
from sidecar.edge.health import Health
from sidecar.edge.preprocessor import PARSERS, Preprocessor
from sidecar.errors import SettingsError
from sidecar.observe.journal import Journal
from sidecar.observe.metrics import Metrics

log = logging.getLogger(__name__)

SERVICE = preprocessor_pb2.DESCRIPTOR.services_by_name["Preprocessor"].full_name
DIAGNOSTICS = diagnostics_pb2.DESCRIPTOR.services_by_name["Diagnostics"].full_name


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the server is reached, and how it goes.

    `listen`: addresses to bind, each "host:port", "[ipv6]:port", "unix:path" or "unix-abstract:name", and
    port 0 for a free one; `message_bytes`: the largest message taken, in bytes; `uploads_bytes`: what all
    uploads under way may hold together, in bytes, and at most what `gate.memory_bytes` comes to;
    `upload_idle_s`: how long an upload may be silent; `drain_s`: how long accepted calls may take to finish once
    the server is told to stop; `reflection`: whether clients may ask what is served.
    """

    listen: tuple[str, ...] = ("127.0.0.1:50051",)
    message_bytes: Annotated[int, Ge(1024)] = 64 * 1024 * 1024
    uploads_bytes: Annotated[int, Ge(1)] = 1024 * 1024 * 1024
    upload_idle_s: Annotated[float, Gt(0)] = 30.0
    drain_s: Annotated[float, Ge(0)] = 25.0
    reflection: bool = True

    def __post_init__(self) -> None:
        allowed = "at least one of host:port, [ipv6]:port, unix:path, unix-abstract:name, each once"
        wrong = [one for one in self.listen if not (is_host_port(one) or is_unix(one))]
        # Port 0 is a free port, another one each time.
        wrong += [one for one in self.listen if self.listen.count(one) > 1 and not one.endswith(":0")]
        if wrong or not self.listen:
            found = repr(wrong[0]) if wrong else "no address"
            raise SettingsError(
                f"`server.listen` has {found}: allowed are {allowed}",
                key="server.listen",
                value=found,
                allowed=allowed,
            )


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Whether health says SERVING, whether the server is going away, and how many accepted calls have not ended."""

    ready: bool
    draining: bool
    under_way: int


class Server:
    """A gRPC server for the Preprocessor, its diagnostics, its health and its reflection."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        preprocessor: Preprocessor,
        diagnostics: Diagnostics,
        metrics: Metrics,
        journal: Journal,
        triton_api: Callable[[Around], grpc.GenericRpcHandler] | None = None,
    ) -> None:
        """`triton_api` makes the handlers of Triton's own API, given what stands around calls."""
        self._config = config
        self._drain = Drain()
        self._health = Health()
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", config.message_bytes),
                ("grpc.max_send_message_length", -1),
                # A port that another process holds is an error here, not a shared port.
                ("grpc.so_reuseport", 0),
            ),
        )
        around = Around(
            self._server, self._drain, metrics, journal, parsers=PARSERS, previews=preprocessor.previews
        )
        preprocessor_pb2_grpc.add_PreprocessorServicer_to_server(preprocessor, around)  # type: ignore[arg-type]  # all of a server that it needs
        # Diagnostics are asked while draining too, and nobody who watches holds a drain up.
        aside = Around(self._server, Drain(), metrics, journal)
        diagnostics_pb2_grpc.add_DiagnosticsServicer_to_server(diagnostics, aside)  # type: ignore[arg-type]  # as above
        if triton_api is not None:
            self._server.add_generic_rpc_handlers((triton_api(around),))
        # Health and reflection answer while draining, so that probes see the drain and not a dead server.
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.reflection:
            names = (SERVICE, DIAGNOSTICS, "grpc.health.v1.Health", reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self.addresses: tuple[str, ...] = ()

    async def start(self) -> None:
        """Binds and serves. Raises SettingsError, naming the address that cannot be bound."""
        self.addresses = tuple(self._bind(address) for address in self._config.listen)
        self._health.set("", serving=True)
        self._health.set(SERVICE, serving=False)
        await self._server.start()
        log.info("serving on %s", ", ".join(self.addresses))

    def ready(self) -> None:
        """Tells that requests can be answered."""
        self._health.set(SERVICE, serving=True)

    def unready(self) -> None:
        """Tells that requests cannot be answered at present."""
        self._health.set(SERVICE, serving=False)

    def statistics(self) -> ServerStatistics:
        """A snapshot for observers; may be read from any thread."""
        return ServerStatistics(
            self._health.is_serving(SERVICE), self._drain.has_begun, self._drain.in_flight
        )

    async def stop(self) -> bool:
        """Drains and stops. Returns whether every accepted call was finished within the bound."""
        self._health.set(SERVICE, serving=False)
        in_flight = self._drain.begin()
        log.info("draining: %d calls in flight, up to %.0f s", in_flight, self._config.drain_s)
        finished = True
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._drain.finished()
        except TimeoutError:
            finished = False
            log.warning("drain took longer than `server.drain_s`: cancelling what is left")
        await self._server.stop(grace=_LAST_BYTES_S if finished else 0)
        return finished

    def _bind(self, address: str) -> str:
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise SettingsError(
                f"`server.listen` has {address!r}, which cannot be bound: is the port taken, does the path exist?",
                key="server.listen",
                value=address,
            ) from error
        if is_unix(address):
            return address
        return f"{address.rpartition(':')[0]}:{port}"


# A finished call's last message may still be on its way to the socket. Out of the air.
_LAST_BYTES_S = 0.5
