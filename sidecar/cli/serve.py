"""`sidecar serve`: the server in the foreground, on uvloop, until it is told to stop.

SIGTERM and SIGINT drain it and end it. SIGUSR1 only has it refuse what is new: a native sidecar is told to stop after
the model server has gone, too late to finish anything, and its preStop hook sends this beforehand.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import uvloop

from sidecar.app import App, wanted
from sidecar.catalogue import Catalogue
from sidecar.cli.reload import Reload, Seen, look
from sidecar.observe import logs
from sidecar.settings import Settings
from sidecar.workers.budget import read_budget
from sidecar.workers.heap import keep_objects
from sidecar.workers.planner import Planner

log = logging.getLogger(__name__)


def serve(
    load: Callable[[], Settings],
    file: Path | None = None,
    *,
    check_only: bool = False,
    slips: Sequence[str] = (),
) -> int:
    """Runs until SIGTERM or SIGINT, then drains. Returns 0, or 1 when the drain was cut short.

    `load` reads the settings, now and whenever they are to be read anew; `file` is one that they come from. `slips` are
    variables of the environment that nobody reads, to be warned of. Raises SetupError for settings that cannot be.
    """
    seen = look(file)  # before it is read: a change during the start is one
    settings = load()
    logs.set_up(settings.log)
    if slips:
        log.warning("ignored, though it looks like a setting: %s (see docs/settings.md)", ", ".join(slips))
    if check_only:
        Catalogue(settings.models, None)
        Planner(wanted(settings), read_budget(os.sched_getaffinity(0)))
        log.info("settings and recipes are well")
        return 0
    return uvloop.run(_serve(settings, load, file, seen))


async def _serve(
    settings: Settings, load: Callable[[], Settings], file: Path | None, seen: Seen | None
) -> int:
    # Until there is something to reload, and for the processes that are started: a terminal's end is not theirs.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = App(settings)
    loop.add_signal_handler(signal.SIGUSR1, app.refuse)
    async with app.running():
        keep_objects()
        reloading = asyncio.create_task(Reload(partial(app.reconfigure, load), file, seen).watch())
        await stop.wait()
        reloading.cancel()
    return 0 if app.finished_drain else 1
