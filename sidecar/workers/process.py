"""A worker process, from its fork to its end: threads that take orders, do the work and report.

Each thread waits on the channel itself, so an order reaches it without a hop: the kernel hands a message
to one waiting thread and keeps messages whole. The process has the arena and this channel and needs nothing
else; it ends when the front closes the channel, when the front dies, or by a signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading

from sidecar.workers.orders import MOST_BYTES, lay_report, read_order
from sidecar.workers.worker import work

_PR_SET_PDEATHSIG = 1  # prctl.h


def serve_orders(channel: socket.socket, arena: memoryview, threads: int) -> None:
    """Works off orders on `threads` threads, this one among them. Never returns."""
    for number in range(1, threads):
        threading.Thread(target=_serve, args=(channel, arena), name=f"worker-{number}", daemon=True).start()
    _serve(channel, arena)


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
