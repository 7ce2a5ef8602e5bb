"""The front's end of the nursery: starts it, asks it for workers, hears of their ends.

It decides nothing: what a death means is the supervisor's. It lives on one event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sidecar.workers.precedence import Policy
from sidecar.workers.sandbox.config import LayerState

log = logging.getLogger(__name__)

_MESSAGE = 4096
# How long the nursery may take to end once its channel is closed; it does so at once.
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told: of a warm nursery and what of the sandbox can be entered, of a worker's pid and pidfd, of its wait
    status, of the nursery's end.
    """

    ready: Callable[[Sequence[LayerState]], None]
    spawned: Callable[[int, int, int], None]
    ended: Callable[[int, int], None]
    gone: Callable[[], None]


@dataclass(frozen=True, slots=True)
class SpawnOrder:
    """A worker that is wanted: its number, how it gives way (None: to nobody), its threads, and the CPUs that it keeps
    to; none for all of them.
    """

    number: int
    gives_way: Policy | None
    threads: int
    cpus: tuple[int, ...] = ()


class NurseryLink:
    """A nursery process and the channel to it."""

    def __init__(self, config: dict[str, Any], listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [
                    sys.executable,
                    "-m",
                    "sidecar.workers.nursery",
                    str(theirs.fileno()),
                    json.dumps(config),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._loop.add_reader(self._channel.fileno(), self._hear)
        self._closed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ending(self) -> bool:
        """Whether its end of the channel is closed, which is so before its workers are ended with it (exit(2))."""
        if self._closed:
            return True
        poll = select.poll()
        poll.register(self._channel, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def spawn(self, order: SpawnOrder) -> socket.socket:
        """Asks for a worker; returns the front's end of its channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                message = json.dumps(asdict(order)).encode()
                socket.send_fds(self._channel, [message], [theirs.fileno()])
            except OSError as error:
                log.warning("the nursery cannot be asked for a worker: %s", error)
        return ours

    async def close(self) -> None:
        """Ends the nursery, and with it all workers; returns when it is gone."""
        self._hang_up()
        try:
            await asyncio.to_thread(self._process.wait, _END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _hear(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, _MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._gone()
            return
        said: dict[str, Any] = json.loads(message)
        match said:
            case {"ready": threads, "sandbox": tried}:
                if threads > 1:
                    log.warning("the nursery has %d threads; a fork takes only one along", threads)
                self._listener.ready([LayerState(*each) for each in tried])
            case {"spawned": number, "pid": pid} if descriptors:
                self._listener.spawned(number, pid, descriptors[0])
            case {"ended": number, "status": status}:
                self._listener.ended(number, status)
            case _:
                log.error("the nursery said something unknown: %s", said)
                for descriptor in descriptors:
                    os.close(descriptor)

    def _gone(self) -> None:
        closed = self._closed
        self._hang_up()
        if not closed:
            # Ended by itself or by somebody: nothing of it is kept. It may not be reaped yet.
            self._process.kill()
            self._process.wait()
            self._listener.gone()

    def _hang_up(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()
