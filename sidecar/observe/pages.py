"""The small HTTP server beside gRPC: Prometheus' metrics, and pages by their paths, each connection on a thread.

It serves what it is given and knows nothing of it; it takes no more than a request line and headers of anybody, and
for no longer than some seconds.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

# A client that says nothing for so long is let go.
_PATIENCE_S: Final = 10.0

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI (PEP 3333) has it."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered: a content type, bytes, and an HTTP status line."""

    content_type: str
    body: bytes
    status: str = "200 OK"


class _Server(ThreadingMixIn, WSGIServer):
    """Threads of their own, that a slow reader holds up nobody; they end with the process."""

    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002, ANN401 - the base's own signature
        """Says nothing: scrapes come every some seconds."""


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
        if path == "/metrics":
            return metrics(environ, start)
        page = pages(path) or Page("text/plain; charset=utf-8", b"there is / and /metrics\n", "404 Not Found")
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
