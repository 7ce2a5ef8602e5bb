"""A sidecar in a container whose runtime keeps a layer's system calls from it, as profiles of older runtimes do.

    python -m tests.isolation.lacking LAYER FLAG...

Becomes `sidecar serve FLAG...`, which then finds that it may not have the layer.
"""

from __future__ import annotations

import errno
import os
import sys

from sidecar.workers.sandbox import bpf
from sidecar.workers.sandbox.policy import ALLOW
from sidecar.workers.sandbox.privileges import set_no_new_privs
from sidecar.workers.sandbox.seccomp import filter_calls, here

# landlock_create_ruleset has its number everywhere, and is no call of the policy.
CALLS = {"landlock": 444, "seccomp": None}
_REFUSED = 0x00050000 | errno.EPERM


def main(layer: str, *flags: str) -> None:
    architecture = here()
    assert architecture is not None
    number = CALLS[layer] or architecture.numbers[layer]
    rules = [
        bpf.load(bpf.NUMBER_AT),
        *bpf.when_equal(number, [bpf.verdict(_REFUSED)]),
        bpf.verdict(ALLOW),
    ]
    set_no_new_privs()
    filter_calls(rules, architecture)
    os.execv(sys.executable, [sys.executable, "-m", "sidecar", "serve", *flags])


if __name__ == "__main__":
    main(*sys.argv[1:])
