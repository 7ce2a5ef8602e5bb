"""The small HTTP server beside gRPC: Prometheus' metrics, and pages by their paths, each connection on a thread.

It serves what it is given and knows nothing of it; it takes no more than a request line and headers of anybody, and
for no longer than some seconds. What goes wrong is logged as all else, and costs its own connection only.
"""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

log = logging.getLogger(__name__)

# A client that has not said what it wants for so long is let go, and one that does not take what it is given.
_PATIENCE_S: Final = 10.0

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI (PEP 3333) has it."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered: a content type, bytes, and an HTTP status line."""

    content_type: str
    body: bytes
    status: str = "200 OK"


_TEXT: Final = "text/plain; charset=utf-8"
_NOWHERE: Final = Page(_TEXT, b"there is / and /metrics\n", "404 Not Found")
_FAULT: Final = Page(_TEXT, b"a fault of the server; its log tells more\n", "500 Internal Server Error")


class _Server(ThreadingMixIn, WSGIServer):
    """Threads of their own, that a slow reader holds up nobody; they end with the process."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Binds. The base's own asks name servers what this machine is called, who may take their time."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's own signature
        """A client went away, or was let go. The base's own prints a traceback."""
        log.debug("%s was let go: %s", client_address, sys.exception())


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Hearing(self.connection, time.monotonic() + _PATIENCE_S))

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002, ANN401 - the base's own signature
        """Says nothing: scrapes come every some seconds."""


class _Hearing(io.RawIOBase):
    """What a client says until a moment; a timeout of the socket's own would begin anew with every byte."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self._connection = connection
        self._until_s = until_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - the base's own signature
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the client took too long to say what it wants")
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(_PATIENCE_S)  # for the answer


def serve_pages(
    host: str, port: int, metrics: Application, pages: Callable[[str], Page | None]
) -> AbstractContextManager[int]:
    """Binds now, serves in a `with` block, and gives its port. `/metrics` is the one application, all else is `pages`'
    by path. Raises OSError, ValueError or OverflowError where it cannot be bound.
    """
    kind = _Server6 if ":" in host else _Server
    return _served(make_server(host, port, _application(metrics, pages), kind, _Handler))


def _application(metrics: Application, pages: Callable[[str], Page | None]) -> Application:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", "/"))
        try:
            if path == "/metrics":
                return metrics(environ, start)
            page = pages(path) or _NOWHERE
        except Exception:
            log.exception("the page %r failed", path)
            page = _FAULT
        headers = [
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start(page.status, headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [page.body]

    return answer


@contextmanager
def _served(server: WSGIServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
