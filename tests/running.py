"""A whole sidecar for tests: the real composition root on an event loop of its own thread.

Real channels, real files, free loopback ports. Whoever starts one stops it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sidecar.app import App
from sidecar.settings import load_settings

CHECKPOINTS = Path(__file__).parents[1] / "testbed" / "checkpoints"
START_S = 60

T = TypeVar("T")


class Running:
    """A sidecar that runs. `address` is where it listens, `app` the composition root."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        self.app = app
        self._loop = loop
        self._ended = ended
        self._gone = threading.Event()

    @property
    def address(self) -> str:
        return self.app.addresses[0]

    def stop(self) -> None:
        """Drains and stops, and returns when that is done; leaving `running` does it too."""
        self._loop.call_soon_threadsafe(self._ended.set)
        assert self._gone.wait(START_S)

    def gone(self) -> None:
        """Says that it has stopped."""
        self._gone.set()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the sidecar's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)


@contextmanager
def running(
    models: Mapping[str, str] | None = None, triton: str | None = None, *overrides: str
) -> Iterator[Running]:
    """Starts a sidecar with models (name: checkpoint directory's name), and stops it at the end.

    `overrides` are "key=value" settings, as for `--set`. What keeps it from starting is raised.
    """
    given = ["server.listen=['127.0.0.1:0']", "metrics.listen='127.0.0.1:0'", "arena.bytes=134217728"]
    # A test's media is the same again and again, and means to be worked on each time.
    given += ["cache.enabled=false"]
    given += [f"models.{name}.recipe={CHECKPOINTS / directory}" for name, directory in (models or {}).items()]
    given += [f"triton={triton}"] if triton else []
    app = App(load_settings(None, {}, [*given, *overrides]))
    loop = asyncio.new_event_loop()
    ended, started = asyncio.Event(), threading.Event()
    failure: list[BaseException] = []
    sidecar = Running(app, loop, ended)

    async def live() -> None:
        try:
            async with app.running():
                started.set()
                await ended.wait()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failure.append(error)
        finally:
            started.set()
            sidecar.gone()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),), name="sidecar")
    thread.start()
    try:
        started.wait(START_S)
        if failure:
            raise failure[0]
        yield sidecar
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(START_S)
        loop.close()
