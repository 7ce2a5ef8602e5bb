"""A worker process, from its fork to its end: threads that take orders, do the work and report.

Each thread waits on the channel itself, so an order reaches it without a hop: the kernel hands a message
to one waiting thread and keeps messages whole. The process has the arena and this channel and needs nothing
else, which is why it can be confined (sandbox/). It ends when the front closes the channel, when the front
dies, or by a signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable

from sidecar.workers.orders import MOST_BYTES, lay_report, read_order
from sidecar.workers.worker import work

_PR_SET_PDEATHSIG = 1  # prctl.h


def serve_orders(channel: socket.socket, arena: memoryview, threads: int, shut: Callable[[], None]) -> None:
    """Works off orders on `threads` threads, this one among them. Never returns.

    `shut` is called once all threads are there and before any of them takes an order; what it raises is raised.
    """
    begun = threading.Event()

    def serve() -> None:
        begun.wait()
        _serve(channel, arena)

    for number in range(1, threads):
        threading.Thread(target=serve, name=f"worker-{number}", daemon=True).start()
    shut()
    begun.set()
    serve()


def die_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends, even while a codec hangs in it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _serve(channel: socket.socket, arena: memoryview) -> None:
    while True:
        try:
            laid = channel.recv(MOST_BYTES)
            if not laid:
                os._exit(0)
            number, job = read_order(laid, arena)
            channel.send(lay_report(number, work(job)))
        except OSError:
            os._exit(0)  # the front has closed the channel
