"""Takes the pictures of `sidecar top` and of the status page for the docs, from a sidecar under load.

    .venv/bin/python scripts/screenshots.py

Needs a headless Chromium on PATH (Debian: chromium) and the testbed's Triton; everything it starts it ends.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console
from rich.terminal_theme import MONOKAI

from bench.episodes.callers import Noted, call_on
from bench.episodes.plays import LOADS
from bench.episodes.stage import PICTURES, SPEECH, accelerators, checkpoints, sidecar
from bench.processes import free_ports
from inference_client import Client
from sidecar.cli.top import frame

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WARM_S, SHOWN_S = 12.0, 25.0
WIDTH = 110
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-quic")  # fmt: skip


def main() -> int:
    """Plays a load, and takes both pictures; returns 1 where there is no browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("no chromium on PATH: install Debian's package chromium")
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with accelerators(folder) as (triton, made, _):
            made[PICTURES].take(6.0, 1.0)
            made[SPEECH].take(8.0)
            (port,) = free_ports(1)
            more = {"metrics.listen": f"127.0.0.1:{port}"}
            with sidecar(triton.grpc_address, checkpoints(folder), **more) as running:
                uvloop.run(_shown(running.address, f"http://127.0.0.1:{port}/", browser, folder))
    return 0


async def _shown(address: str, page: str, browser: str, folder: Path) -> None:
    ends = time.monotonic() + WARM_S + SHOWN_S
    loads = (replace(LOADS["1080p"], callers=5), replace(LOADS["speech"], callers=2))
    calls = [
        asyncio.create_task(call_on(address, load, Noted(), lambda: time.monotonic() > ends))
        for load in loads
    ]
    await asyncio.sleep(WARM_S)
    await asyncio.to_thread(_page, browser, page, IMAGES / "status.png", folder, (1180, 1500), 9000)
    await asyncio.to_thread(_terminal, address, browser, folder)
    await asyncio.gather(*calls)


def _terminal(address: str, browser: str, folder: Path) -> None:
    """One frame of `sidecar top`, drawn as the terminal draws it."""
    console = Console(width=WIDTH, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115 - ends with it
    with Client(address) as client:
        console.print(frame(client.verdict(), "127.0.0.1:50051"))
    html = folder / "top.html"
    lines = console.export_text(clear=False).count("\n") + 1
    html.write_text(console.export_html(theme=MONOKAI, code_format=_TERMINAL))
    _page(browser, html.as_uri(), IMAGES / "top.png", folder, (1040, 19 * lines + 50), 500)


def _page(browser: str, url: str, to: Path, folder: Path, size: tuple[int, int], budget_ms: int) -> None:  # noqa: PLR0917 - a picture's parts
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'browser'}", f"--window-size={size[0]},{size[1]}"]
    command += [f"--virtual-time-budget={budget_ms}", f"--screenshot={to}", url]
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603 - spelled out above


_TERMINAL = """<!doctype html><meta charset="utf-8"><style>{stylesheet}
body {{ background: {background}; color: {foreground}; margin: 16px; }}
pre {{ font: 15px/1.25 "DejaVu Sans Mono", monospace; }}</style><pre>{code}</pre>"""

if __name__ == "__main__":
    sys.exit(main())
