"""Enters the sandbox, layer by layer; and tries it out first, in a process that ends with the trial.

The order matters. What has to look at /proc comes before files are forbidden; what holds for one thread and those that
it starts comes before threads start; what ends the starting of threads comes last. seccomp takes all threads there are.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.workers.sandbox import config, descriptors, landlock, limits, privileges, seccomp
from sidecar.workers.sandbox.config import Confinement, LayerState
from sidecar.workers.sandbox.kernel import Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """A layer's part of entering: of which layer, and what it does; it gives a detail worth telling, or nothing."""

    layer: str
    enter: Callable[[Confinement, int, Sequence[int]], str | None]


_BEFORE_THREADS: Final = (
    _Step(config.DESCRIPTORS, lambda _, __, kept: descriptors.close_all_but(kept)),
    _Step(config.NO_NEW_PRIVS, lambda *_: privileges.set_no_new_privs()),
    _Step(config.CAPABILITIES, lambda *_: privileges.drop_capabilities()),
    _Step(
        config.RLIMITS,
        lambda told, threads, _: limits.limit_resources(told.memory_bytes, told.file_bytes, threads),
    ),
    _Step(config.LANDLOCK, lambda *_: landlock.forbid_files()),
)
_WITH_THREADS: Final = (
    _Step(config.RLIMITS, lambda *_: limits.end_threads()),
    _Step(config.SECCOMP, lambda told, *_: seccomp.forbid_calls(log_denied=told.log_denied)),
)


class Sandbox:
    """What a worker enters in two steps, with its threads between them. No step can be taken back.

    Each raises Unavailable where a layer cannot be entered: the process must not run a job then.
    """

    def __init__(self, confinement: Confinement, threads: int) -> None:
        self._confinement = confinement
        self._threads = threads

    def enter(self, kept: Sequence[int]) -> None:
        """Before threads start; `kept` are the descriptors that stay open."""
        for _ in self._entered(_BEFORE_THREADS, kept):
            pass

    def shut(self) -> None:
        """When all threads are there, and before any of them takes an order."""
        for _ in self._entered(_WITH_THREADS, ()):
            pass

    def tried(self, kept: Sequence[int]) -> Iterator[LayerState]:
        """Enters all of it, and gives what became of each part; those that cannot be are left out."""
        for step in (*_BEFORE_THREADS, *_WITH_THREADS):
            if step.layer in self._confinement.layers:
                try:
                    yield LayerState(step.layer, True, self._enter(step, kept))
                except Unavailable as why:
                    yield LayerState(step.layer, False, str(why))

    def _entered(self, steps: Sequence[_Step], kept: Sequence[int]) -> Iterator[str]:
        for step in steps:
            if step.layer in self._confinement.layers:
                yield self._enter(step, kept)

    def _enter(self, step: _Step, kept: Sequence[int]) -> str:
        try:
            return step.enter(self._confinement, self._threads, kept) or ""
        except OSError as error:
            raise Unavailable(f"{error.strerror or error}") from error


def try_out(confinement: Confinement) -> tuple[LayerState, ...]:
    """What of a confinement can be entered here, found out by a fork that enters it and ends."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        _try(confinement, theirs)
    os.close(theirs)
    with os.fdopen(ours) as told:
        lines = [json.loads(line) for line in told]
    _, status = os.waitpid(pid, 0)
    found: dict[str, LayerState] = {}
    for line in lines:
        state = LayerState(**line)
        known = found.get(state.name)
        if known is None or known.applied:  # of a layer with two parts both must be
            found[state.name] = state
    return tuple(found.get(name) or LayerState(name, False, _ended(status)) for name in confinement.layers)


def _try(confinement: Confinement, told: int) -> None:
    """The trial's side; never returns."""
    try:
        for state in Sandbox(confinement, threads=1).tried((told,)):
            line = {"name": state.name, "applied": state.applied, "detail": state.detail}
            os.write(told, json.dumps(line).encode() + b"\n")
    except BaseException:
        log.exception("the sandbox cannot be tried out")
        raise
    finally:
        os._exit(0)


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"the trial was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return "the trial ended before it"


def present(confinement: Confinement, states: Sequence[LayerState]) -> Confinement:
    """The confinement without the layers that the trial could not enter."""
    applied: Mapping[str, bool] = {state.name: state.applied for state in states}
    return Confinement(
        tuple(name for name in confinement.layers if applied[name]),
        confinement.memory_bytes,
        confinement.file_bytes,
        confinement.log_denied,
    )
