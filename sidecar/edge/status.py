"""The status page: one HTML file without outside assets, and the live picture that it shows, as JSON.

The picture is taken on the event loop, for which the page's thread waits; who looks at it costs the path as much as
one who asks `Diagnostics.Verdict`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.resources
from typing import Final

from google.protobuf import json_format

from sidecar.edge.diagnostics import Diagnostics
from sidecar.errors import SidecarError
from sidecar.observe.pages import Page

_HTML: Final = "text/html; charset=utf-8"
_JSON: Final = "application/json"
# For the event loop to answer; one that takes longer has other troubles.
_PATIENCE_S: Final = 5.0


class StatusPages:
    """`/` and `/status.json`, over the diagnostics of a server whose loop this is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, diagnostics: Diagnostics) -> None:
        self._loop = loop
        self._diagnostics = diagnostics
        self._html = (importlib.resources.files("sidecar.edge") / "status.html").read_bytes()

    def serve(self, path: str) -> Page | None:
        """The page at a path; None where there is none. Called on threads of the HTTP server."""
        if path in {"/", "/index.html"}:
            return Page(_HTML, self._html)
        if path != "/status.json":
            return None
        try:
            told = asyncio.run_coroutine_threadsafe(self._told(), self._loop).result(_PATIENCE_S)
        except SidecarError as error:
            return Page("text/plain; charset=utf-8", error.message.encode(), "503 Service Unavailable")
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return Page("text/plain; charset=utf-8", b"the server is too busy\n", "503 Service Unavailable")
        return Page(_JSON, told)

    async def _told(self) -> bytes:
        verdict = await self._diagnostics.fresh()
        return json_format.MessageToJson(
            verdict, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        ).encode()
