"""Runs the image for real and says of each promise whether it is kept: `make image-test`.

    python -m tests.image IMAGE [--keep FILE]

Ends with 0 where every check holds, 1 where one does not, 3 where no container engine answers. With --keep what was
found is also written to a file, as JSON in the form of a benchmark's result.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import image_tables
from bench.report import report
from tests.image import checks
from tests.image.checks import Checks
from tests.image.engine import Engine, EngineFailed, NoEngine
from tests.image.pod import PROJECT, Limits, Pod

NO_ENGINE = 3
NEIGHBOUR = "sidecar-testbed-triton"

console = Console(highlight=False, width=150)


def main() -> int:
    """Judges the image; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description="Run the image for real.")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write what was found there")
    options = parser.parse_args()
    try:
        with Engine(os.environ.get("ENGINE", "docker"), f"sidecar-image-{secrets.token_hex(4)}") as engine:
            result = judge(engine, options.image)
    except NoEngine as error:
        sys.stderr.write(f">> {error}\n")
        return NO_ENGINE
    except EngineFailed as error:
        sys.stderr.write(f">> {error}\n")
        return 1
    if options.keep is not None:
        options.keep.write_text(json.dumps(result, indent=2) + "\n")
    console.print(_table(result))
    console.print(image_tables.held(result))
    return 0 if all(target["holds"] for target in result["targets"]) else 1


def judge(engine: Engine, image: str) -> dict[str, Any]:
    """Every check, in the order in which they cost little first; figures are the cases, checks the targets."""
    found = Checks(_told)
    cases: list[dict[str, Any]] = [{"case": "size", **checks.sizes(engine, image)}]
    say("looking at what is in it, and where it refuses to run")
    checks.contents(engine, image, found)
    checks.refusals(engine, image, found)
    say("building the neighbour: the testbed's real Triton in a container")
    flags = os.environ.get("IMAGE_FLAGS", "").split()
    dockerfile = str(PROJECT / "tests" / "image" / "triton.Dockerfile")
    engine.done("build", *flags, "--tag", NEIGHBOUR, "--file", dockerfile, str(PROJECT))
    say("preparing the corpus by this checkout, to compare with")
    expected = checks.pixels_of_this_checkout()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        say("starting the real Triton, and the sidecar beside it")
        pod = Pod(engine, image, NEIGHBOUR, Path(folder))
        free = pod.start("free", None)
        cases.append(_start("cold start without limits", free, checks.cpu_s(engine, pod.sidecar)))
        engine.remove([pod.sidecar])
        limits = Limits.of_this_machine()
        cold = pod.start("sidecar", limits)
        used_s = checks.cpu_s(engine, pod.sidecar)
        cases.append(_start(f"cold start with {limits}", cold, used_s))
        checks.start(used_s, engine.log(pod.sidecar), found)
        checks.confinement(engine, pod.sidecar, found)
        say(f"sending {len(expected)} pictures and sounds, a line of text and a spoken sentence")
        checks.work(engine, pod, expected, limits, found)
        checks.memory(engine, pod.sidecar, limits, found)
        say("telling the sidecar to stop while a call is under way")
        checks.drain(engine, pod, found)
    return report("image", cases, found.targets)


def say(words: str) -> None:
    """What happens now, before it happens."""
    console.print(f"[dim]>>[/] {words}")


def _told(what: str, holds: bool, found: str) -> None:
    word = "[green]holds[/]" if holds else "[red]FAILS[/]"
    console.print(f"{word}  {escape(what)}: [dim]{escape(found)}[/]")


def _start(case: str, seconds: float, used_s: float) -> dict[str, Any]:
    return {"case": case, "seconds": round(seconds, 2), "cpu_s": round(used_s, 2)}


def _table(result: Mapping[str, Any]) -> Table:
    table = Table(title="the image, as it was found", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("what", "found", "holds"):
        table.add_column(heading, overflow="fold")
    for row in image_tables.rows(result):
        table.add_row(*map(escape, row))
    return table


if __name__ == "__main__":
    sys.exit(main())
