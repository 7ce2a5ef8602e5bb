"""`sidecar serve`: the server in the foreground, on uvloop, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

import uvloop

from sidecar.app import App
from sidecar.catalogue import Catalogue
from sidecar.observe import logs
from sidecar.settings import Settings
from sidecar.workers.heap import keep_objects

log = logging.getLogger(__name__)


def serve(settings: Settings, *, check_only: bool = False, slips: Sequence[str] = ()) -> int:
    """Runs until SIGTERM or SIGINT, then drains. Returns 0, or 1 when the drain was cut short.

    `slips` are variables of the environment that nobody reads, to be warned of.
    """
    logs.set_up(settings.log)
    if slips:
        log.warning("ignored, though it looks like a setting: %s (see docs/settings.md)", ", ".join(slips))
    if check_only:
        Catalogue(settings.models, None)
        log.info("settings and recipes are well")
        return 0
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = App(settings)
    async with app.running():
        keep_objects()
        await stop.wait()
    return 0 if app.finished_drain else 1
