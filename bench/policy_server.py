"""The sidecar with somebody else's rules of admission: `python -m bench.policy_server POLICY key=value...`.

All but the order and the refusals is the server that is measured beside it: the same code, the same settings, the same
workers and slots. POLICY is one of `bench.policies`; the rest are settings as for `sidecar serve --set`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from bench.policies import POLICIES
from sidecar.app import App
from sidecar.observe import logs
from sidecar.settings import Settings, load_settings


def main(arguments: Sequence[str]) -> None:
    """Serves until SIGTERM."""
    policy, *given = arguments
    settings = load_settings(None, os.environ, given)
    logs.set_up(settings.log)
    uvloop.run(_serve(settings, policy))


async def _serve(settings: Settings, policy: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with App(settings, turns=lambda _, cores, __: POLICIES[policy](cores)).running():
        await stop.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
