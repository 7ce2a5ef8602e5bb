"""Runs the image for real and says of each promise whether it is kept: `make image-test`.

    python -m tests.image IMAGE

Ends with 0 where every check holds, 1 where one does not, 3 where no container engine answers.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.image import checks
from tests.image.checks import Checks
from tests.image.engine import Engine, EngineFailed, NoEngine
from tests.image.pod import PROJECT, Limits, Pod

NO_ENGINE = 3
NEIGHBOUR = "sidecar-testbed-triton"

console = Console(highlight=False, width=150)


def main(image: str) -> int:
    """Judges the image; returns the exit status."""
    try:
        with Engine(os.environ.get("ENGINE", "docker"), f"sidecar-image-{secrets.token_hex(4)}") as engine:
            return judge(engine, image)
    except NoEngine as error:
        sys.stderr.write(f">> {error}\n")
        return NO_ENGINE
    except EngineFailed as error:
        sys.stderr.write(f">> {error}\n")
        return 1


def judge(engine: Engine, image: str) -> int:
    """Every check, in the order in which they cost little first."""
    found = Checks(_told)
    figures = {
        "size of the image": engine.done("image", "inspect", "--format", "{{.Size}}", image).strip()
        + " bytes"
    }
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
        figures["cold start without limits"] = (
            f"{free:.2f} s, {checks.cpu_s(engine, pod.sidecar):.2f} s of CPU"
        )
        engine.remove([pod.sidecar])
        limits = Limits.of_this_machine()
        cold = pod.start("sidecar", limits)
        figures[f"cold start with {limits.quota:g} cores of {limits.cpu_count} CPUs"] = f"{cold:.2f} s"
        checks.start(checks.cpu_s(engine, pod.sidecar), engine.log(pod.sidecar), found)
        checks.confinement(engine, pod.sidecar, found)
        say(f"sending {len(expected)} pictures and sounds, a line of text and a spoken sentence")
        checks.work(engine, pod, expected, limits, found)
        checks.memory(engine, pod.sidecar, limits, found)
        say("telling the sidecar to stop while a call is under way")
        checks.drain(engine, pod, found)
    console.print(_table(found, figures))
    console.print(f"{len(found.rows) - len(found.failed)} of {len(found.rows)} checks hold")
    return 1 if found.failed else 0


def say(words: str) -> None:
    """What happens now, before it happens."""
    console.print(f"[dim]>>[/] {words}")


def _told(what: str, holds: bool, found: str) -> None:
    word = "[green]holds[/]" if holds else "[red]FAILS[/]"
    console.print(f"{word}  {escape(what)}: [dim]{escape(found)}[/]")


def _table(found: Checks, figures: Mapping[str, str]) -> Table:
    table = Table(title="the image, as it was found", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold")
    for what, figure in figures.items():
        table.add_row("figure", what, figure)
    for what, holds, told in found.rows:
        table.add_row("holds" if holds else "FAILS", escape(what), escape(told))
    return table


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
