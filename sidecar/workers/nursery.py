"""The nursery: a process with everything loaded and compiled, of which worker processes are forked.

The front cannot fork, for it runs gRPC; starting a Python for every worker takes seconds in which a crash
costs capacity. So one process, which never runs gRPC, a thread or a job, loads the code once, and each
worker is a fork of it: warm from its first instruction, milliseconds after it was asked for, sharing the
loaded pages with its siblings.

Run as `python -m sidecar.workers.nursery FD CONFIG`: FD is the front's channel, CONFIG JSON. The front says what
worker it wants (`nursery_link.SpawnOrder`) and passes the worker's channel along; the nursery says `{"ready": ...}`
once it is warm and has tried out the sandbox, `{"spawned": number, "pid": ...}` with a pidfd, and
`{"ended": number, "status": ...}`. It ends when the front closes its channel, and its workers end with it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.workers.sandbox.config import Confinement

log = logging.getLogger(__name__)

# One thread inside every library, whatever counts the cores: requests are parallel, their insides are not.
_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VIPS_CONCURRENCY",
)
_MESSAGE = 4096

log = logging.getLogger("sidecar.workers.nursery")  # run as __main__


def main(descriptor: int, config: dict[str, Any]) -> None:
    """Warms up, then forks until the front goes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the front decides when to stop, also when a group is told
    os.environ.update(dict.fromkeys(_CAPS, "1"))
    front = socket.socket(fileno=descriptor)
    arena = _warm(config)
    Nursery(front, arena, *_tried(config)).serve()


def _warm(config: dict[str, Any]) -> memoryview:
    """Loads what a worker runs, after the caps are set; returns the arena."""
    from sidecar.arena.view import attach  # noqa: PLC0415
    from sidecar.observe import logs  # noqa: PLC0415 - the caps are read when libraries are loaded
    from sidecar.recipes import clean, loader  # noqa: F401, PLC0415 - load every recipe and stage
    from sidecar.stages import compiled, fourier, kernels, unfilter  # noqa: PLC0415
    from sidecar.workers import heap, precedence, process  # noqa: F401, PLC0415
    from sidecar.workers.sandbox import layers  # noqa: F401, PLC0415

    for name in config["recipes"]:
        importlib.import_module(name)
    heap.keep_blocks()
    logs.set_up(logs.LogConfig(**config["log"]))
    kernels.warm()
    fourier.warm()
    unfilter.warm()
    log.info("kernels: %s", compiled.told())
    arena = attach(config["arena"], int(config["arena_bytes"]))
    heap.keep_objects()
    return arena


def _tried(config: dict[str, Any]) -> tuple[Confinement, list[tuple[str, bool, str]]]:
    """What workers are to enter here, and what became of each layer in a trial of it."""
    from sidecar.workers.sandbox import layers  # noqa: PLC0415 - loaded since `_warm`
    from sidecar.workers.sandbox.config import Confinement  # noqa: PLC0415

    wanted = Confinement.read(config["sandbox"])
    states = layers.try_out(wanted)
    return layers.present(wanted, states), [(state.name, state.applied, state.detail) for state in states]


class Nursery:
    """Forks workers on demand, and tells when one ended. `tried` is what the front is told of the sandbox."""

    def __init__(
        self,
        front: socket.socket,
        arena: memoryview,
        confinement: Confinement,
        tried: list[tuple[str, bool, str]],
    ) -> None:
        self._front = front
        self._arena = arena
        self._confinement = confinement
        self._tried = tried
        self._selector = selectors.DefaultSelector()
        self._selector.register(front, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the front closes the channel."""
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
        self._say({"ready": threads, "sandbox": self._tried})
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if not self._listen():
                        return
                else:
                    self._bury(key.fd, *key.data)

    def _listen(self) -> bool:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._front, _MESSAGE, 1)
        except OSError:
            return False
        if not message:
            return False
        self._spawn(json.loads(message), socket.socket(fileno=descriptors[0]))
        return True

    def _spawn(self, wanted: dict[str, Any], channel: socket.socket) -> None:
        parent, number = os.getpid(), wanted["number"]
        pid = os.fork()
        if not pid:
            self._become_worker(parent, wanted, channel)
        channel.close()
        pidfd = os.pidfd_open(pid)
        self._selector.register(pidfd, selectors.EVENT_READ, (number, pid))
        self._say({"spawned": number, "pid": pid}, pidfd)

    def _become_worker(self, parent: int, wanted: dict[str, Any], channel: socket.socket) -> None:
        """The child's side: lets go of all that is the nursery's, and works until the end.

        What the trial could enter it enters before its first order, or ends.
        """
        from sidecar.workers import precedence, process  # noqa: PLC0415 - loaded since `_warm`
        from sidecar.workers.sandbox.kernel import Unavailable  # noqa: PLC0415 - the same
        from sidecar.workers.sandbox.layers import Sandbox  # noqa: PLC0415 - the same

        try:
            process.die_with(parent)
            if wanted["cpus"]:
                os.sched_setaffinity(0, wanted["cpus"])
            if wanted["gives_way"] is not None:
                precedence.give_way(wanted["gives_way"])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for key in list(self._selector.get_map().values()):
                os.close(key.fd)
            self._selector.close()
            sandbox = Sandbox(self._confinement, wanted["threads"])
            sandbox.enter((channel.fileno(),))
            process.serve_orders(channel, self._arena, wanted["threads"], sandbox.shut)
        except Unavailable as why:
            log.error("a worker ends, for it cannot be confined as the trial was: %s", why)  # noqa: TRY400 - its text is enough
        finally:
            os._exit(1)

    def _bury(self, pidfd: int, number: int, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        self._say({"ended": number, "status": status})

    def _say(self, message: dict[str, Any], *descriptors: int) -> None:
        try:
            socket.send_fds(self._front, [json.dumps(message).encode()], descriptors)
        except OSError:
            os._exit(0)  # the front is gone, and the kernel ends the workers with their parent


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
