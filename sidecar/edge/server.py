"""Bind, serve, drain, stop.

The server binds what it is told to and nothing else, tells its health by name, and never drops a call
that it has accepted: on the way out it refuses new ones and waits for the others, up to a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

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
from sidecar.edge.callers.door import Callers, Door
from sidecar.edge.connections import ConnectionsConfig
from sidecar.edge.diagnostics import Diagnostics
from sidecar.edge.health import Health
from sidecar.edge.listening import Sockets, bind
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
    the server is told to stop; `reflection`: whether clients may ask what is served; `diagnostics`: whether Diagnostics
    are served, and `diagnostics_listen`: addresses of their own, on which there is health besides; empty for those of
    `listen`; `health_listen`: addresses that answer health alone, plain and to anybody, for probes that know neither
    TLS nor tokens; `sockets`: who may open those that are "unix:path".
    """

    listen: tuple[str, ...] = ("127.0.0.1:50051",)
    message_bytes: Annotated[int, Ge(1024)] = 64 * 1024 * 1024
    uploads_bytes: Annotated[int, Ge(1)] = 1024 * 1024 * 1024
    upload_idle_s: Annotated[float, Gt(0)] = 30.0
    drain_s: Annotated[float, Ge(0)] = 25.0
    reflection: bool = True
    diagnostics: bool = True
    diagnostics_listen: tuple[str, ...] = ()
    health_listen: tuple[str, ...] = ()
    sockets: Sockets = field(default_factory=Sockets)

    def __post_init__(self) -> None:
        taken: list[str] = []
        for key in ("listen", "diagnostics_listen", "health_listen"):
            addresses = getattr(self, key)
            _check_addresses(f"server.{key}", addresses, taken, may_be_empty=key != "listen")
            taken += addresses


def _check_addresses(key: str, addresses: Sequence[str], taken: Sequence[str], *, may_be_empty: bool) -> None:
    """Raises SettingsError for what is no address, or there before."""
    allowed = "at least one of host:port, [ipv6]:port, unix:path, unix-abstract:name, each once"
    wrong = [one for one in addresses if not (is_host_port(one) or is_unix(one))]
    # Port 0 is a free port, another one each time.
    wrong += [one for one in addresses if [*taken, *addresses].count(one) > 1 and not one.endswith(":0")]
    if wrong or not (addresses or may_be_empty):
        found = repr(wrong[0]) if wrong else "no address"
        raise SettingsError(
            f"`{key}` has {found}: allowed are {allowed}", key=key, value=found, allowed=allowed
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
        connections: ConnectionsConfig,
        credentials: grpc.ServerCredentials | None,
        callers: Callers,
        preprocessor: Preprocessor,
        diagnostics: Diagnostics,
        metrics: Metrics,
        journal: Journal,
        triton_api: Callable[[Around], grpc.GenericRpcHandler] | None = None,
    ) -> None:
        """`credentials` are TLS's, None for none; `triton_api` makes the handlers of Triton's own API, given what
        stands around calls.
        """
        self._config = config
        self._credentials = credentials
        self._drain = Drain()
        self._health = Health()
        # Interceptors cost every call some microseconds: none where there is nothing to ask.
        doors = (Door(callers, metrics),) if callers.need_tokens else ()
        options = (
            *connections.options(),
            ("grpc.max_receive_message_length", config.message_bytes),
            ("grpc.max_send_message_length", -1),
            # A port that another process holds is an error here, not a shared port.
            ("grpc.so_reuseport", 0),
        )
        # Health and reflection answer while draining, so that probes see the drain and not a dead server.
        self._server = self._with_health(options, doors)
        around = Around(
            self._server,
            self._drain,
            metrics,
            journal,
            parsers=PARSERS,
            previews=preprocessor.previews,
            recognise=callers.recognise,
        )
        preprocessor_pb2_grpc.add_PreprocessorServicer_to_server(preprocessor, around)  # type: ignore[arg-type]  # all of a server that it needs
        if triton_api is not None:
            self._server.add_generic_rpc_handlers((triton_api(around),))
        # By the settings' keys: the servers beside the first, and theirs are not its calls.
        self._beside: dict[str, grpc.aio.Server] = {}
        if config.diagnostics_listen and config.diagnostics:
            self._beside["diagnostics_listen"] = self._with_health(options, doors)
        if config.health_listen:
            self._beside["health_listen"] = self._with_health(options, ())
        names = [SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        if config.diagnostics:
            # Diagnostics are asked while draining too, and nobody who watches holds a drain up.
            where = self._beside.get("diagnostics_listen", self._server)
            aside = Around(where, Drain(), metrics, journal, recognise=callers.recognise)
            diagnostics_pb2_grpc.add_DiagnosticsServicer_to_server(diagnostics, aside)  # type: ignore[arg-type]  # as above
            if where is self._server:
                names.insert(1, DIAGNOSTICS)
        if config.reflection:
            reflection.enable_server_reflection(names, self._server)
        self.addresses: tuple[str, ...] = ()
        self.beside: dict[str, tuple[str, ...]] = {}

    def _with_health(self, options: Sequence[tuple[str, Any]], doors: Sequence[Door]) -> grpc.aio.Server:
        server = grpc.aio.server(options=options, interceptors=doors)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return server

    async def start(self) -> None:
        """Binds and serves. Raises SettingsError, naming the address that cannot be bound."""
        self._health.set("", serving=True)
        self._health.set(SERVICE, serving=False)
        self.addresses = self._bound("listen", self._server, self._credentials)
        for key, server in self._beside.items():
            credentials = None if key == "health_listen" else self._credentials
            self.beside[key] = self._bound(key, server, credentials)
            await server.start()
        await self._server.start()
        log.info("serving on %s%s", ", ".join(self.addresses), " by TLS" if self._credentials else "")

    def _bound(
        self, key: str, server: grpc.aio.Server, credentials: grpc.ServerCredentials | None
    ) -> tuple[str, ...]:
        return tuple(
            bind(server, address, f"server.{key}", self._config.sockets, credentials)
            for address in getattr(self._config, key)
        )

    def ready(self) -> None:
        """Tells that requests can be answered, unless they are refused already."""
        self._health.set(SERVICE, serving=not self._drain.has_begun)

    def unready(self) -> None:
        """Tells that requests cannot be answered at present."""
        self._health.set(SERVICE, serving=False)

    def refuse(self) -> int:
        """Refuses new calls from now on, finishes the others and stays; returns how many these are."""
        self._health.set(SERVICE, serving=False)
        return self._drain.begin()

    def statistics(self) -> ServerStatistics:
        """A snapshot for observers; may be read from any thread."""
        return ServerStatistics(
            self._health.is_serving(SERVICE), self._drain.has_begun, self._drain.in_flight
        )

    async def stop(self) -> bool:
        """Drains and stops. Returns whether every accepted call was finished within the bound."""
        in_flight = self.refuse()
        log.info("draining: %d calls in flight, up to %.0f s", in_flight, self._config.drain_s)
        finished = True
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._drain.finished()
        except TimeoutError:
            finished = False
            log.warning("drain took longer than `server.drain_s`: cancelling what is left")
        await self._server.stop(grace=_LAST_BYTES_S if finished else 0)
        for server in self._beside.values():
            await server.stop(grace=0)
        return finished


# A finished call's last message may still be on its way to the socket. Out of the air.
_LAST_BYTES_S = 0.5
