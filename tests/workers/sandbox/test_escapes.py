"""Out of the sandbox there is no way: attempts are made in processes that entered it as workers do, with threads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from sidecar.workers.sandbox.config import LAYERS
from tests.workers.sandbox.escaping import ATTEMPTS

# By whom a thing is refused when all layers are there.
FULL = {
    "reads an inherited file": "EBADF",
    "starts a thread": "EAGAIN",
    "clones by clone3": "ENOSYS",
    "calls what is not there": "ENOSYS",
    "takes more memory than it may": "ENOMEM",
    "fills a memory file past its bound": "EFBIG",
    "opens more files than it may": "EMFILE",
}
DEADLY = """
    runs a program, runs a program by its descriptor, forks, signals its parent, signals by pidfd,
    signals a thread of another, signals all, queues a signal, traces its parent, reads another's memory,
    writes another's memory, takes another's file, mounts, opens a file system, changes its root,
    leaves its namespaces, enters a namespace, becomes another user, takes capabilities, opens a ring, loads BPF,
    adds a key, asks the key ring, handles faults of pages, measures, loads a module, opens by handle,
    changes its personality, lays a filter of its own, calls by the numbers of another architecture
"""
EXPECTED = (
    dict.fromkeys(ATTEMPTS, "EACCES")
    | FULL
    | dict.fromkeys((each.strip() for each in DEADLY.split(",")), "SIGSYS")
)
# What one layer does where the others are missing: a second fence, or the only one on an older kernel.
ALONE = {
    "descriptors": {"reads an inherited file": "EBADF", "accepts on an inherited listener": "EBADF"},
    "landlock": {
        "reads a file": "EACCES",
        "reads another's environment": "EACCES",
        "writes a file": "EACCES",
        "lists a directory": "EACCES",
        "opens below an inherited directory": "EACCES",
        "makes a directory": "EACCES",
        "opens another's memory": "EACCES",
        "runs a program": "EACCES",
        "traces its parent": "EPERM",
    },
    "rlimits": {
        "takes more memory than it may": "ENOMEM",
        "fills a memory file past its bound": "EFBIG",
        "opens more files than it may": "EMFILE",
    },
    "capabilities": {
        "mounts": "EPERM",
        "changes its root": "EPERM",
        "becomes another user": "EPERM",
    },
}


def outcomes(layers: Iterable[str], attempts: Iterable[str]) -> Mapping[str, str]:
    asked = json.dumps({"layers": list(layers), "attempts": list(attempts)})
    found: Mapping[str, str] = answer("-m", "tests.workers.sandbox.escaping", asked)
    return found


def answer(*command: str) -> Any:
    """What a Python process of its own prints as JSON."""
    told = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.fixture(scope="module")
def here() -> frozenset[str]:
    """The layers that this machine has. A trial forks, which this process with its threads must not."""
    return frozenset(answer("-c", TRIAL))


TRIAL = """
import json
from sidecar.workers.sandbox.config import SandboxConfig
from sidecar.workers.sandbox.layers import try_out
states = try_out(SandboxConfig().confinement(memory_bytes=1 << 30, file_bytes=1 << 20))
print(json.dumps([state.name for state in states if state.applied]))
"""


def test_every_attempt_fails_as_it_should_where_all_layers_are_there(here: frozenset[str]) -> None:
    if missing := set(LAYERS) - here:
        pytest.skip(f"this kernel has no {', '.join(sorted(missing))}")
    assert outcomes(LAYERS, ATTEMPTS) == EXPECTED


@pytest.mark.parametrize("layer", ALONE)
def test_a_layer_holds_by_itself_what_it_is_there_for(layer: str, here: frozenset[str]) -> None:
    needed = [layer, *(["no_new_privs"] if layer == "landlock" else [])]
    if layer not in here:
        pytest.skip(f"this kernel has no {layer}")
    assert outcomes(needed, ALONE[layer]) == ALONE[layer]


def test_attempts_do_go_through_where_nothing_is_in_their_way() -> None:
    free = ("reads a file", "opens a socket", "connects", "forks", "starts a thread", "makes memory for code")
    assert outcomes((), free) == dict.fromkeys(free, "done")
