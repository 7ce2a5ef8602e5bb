"""The main job, end to end, on real parts: a text image and a spoken sentence, two models, their answers.

Starts a real Triton (or takes the one at SIDECAR_TRITON) and the sidecar as a process of its own, asks
through `inference_client`, prints what the models answered, where the time went and what the
accelerator waited for, and ends both. Exits non-zero when any answer is wrong. Leaves nothing running.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inference_client import Client, Inference, SidecarError
from testbed.install import CannotInstall, why_not
from testbed.sidecar import StartError, sidecar_process
from testbed.triton import Triton, TritonFailed

SETTINGS = Path(__file__).parent / "sidecar.yaml"
MEDIA = Path(__file__).parents[1] / "testbed" / "media"
EXPECTED_TEXT = "Hello Triton 2026"
# The sentence is spoken between two seconds of silence (testbed/media/SOURCES.md); a detector may be
# some windows early or late.
SPEECH_FROM_S, SLACK_S = 2.0, 0.5
# Silero's detector gives one probability per 512 samples at 16 kHz, and calls 0.5 speech.
WINDOW_S, THRESHOLD = 512 / 16_000, 0.5

console = Console(highlight=False)


@dataclass(frozen=True)
class Asked:
    """One request of the demo: what was sent, what came back, and whether that was right."""

    name: str
    answer: str
    right: bool
    result: Inference


def main() -> int:
    """Runs the demo; returns the exit status. SIGTERM and SIGINT end it well, what it started included."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return demo()
    except (CannotInstall, TritonFailed) as error:
        problem = str(error)
        if not os.environ.get("SIDECAR_TRITON"):
            # Where Triton cannot run at all, that is the reason, and not what failed for it.
            problem = (
                f"{why_not() or problem}\nTo use a Triton elsewhere, with the models `ocr` and `vad` of "
                "testbed/models: SIDECAR_TRITON=host:port make demo"
            )
    except (StartError, SidecarError) as error:
        problem = str(error)
    Console(stderr=True).print(problem, markup=False, highlight=False, soft_wrap=True)
    return 1


def _stop(number: int, _frame: FrameType | None) -> None:
    """Leaves every `with` block on the way out. A second signal would only cut that short."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def demo() -> int:
    """Starts, asks, tells; returns whether all answers were right, as an exit status."""
    begun = time.monotonic()
    with (
        step("starting Triton (a real one, on this machine's CPU)"),
        Triton.start(models=("ocr", "vad"), external=os.environ.get("SIDECAR_TRITON")) as triton,
        step(f"Triton serves on {triton.grpc_address}; starting the sidecar"),
        sidecar_process({"triton": triton.grpc_address}, "--config", str(SETTINGS)) as sidecar,
        step(f"the sidecar serves on {sidecar.address}; asking"),
        Client(sidecar.address) as client,
    ):
        asked = [ask(client) for ask in (read_text, hear_speech) for _ in range(2)]
    for one in asked:
        console.print(
            f"{'[green]right[/]' if one.right else '[red]WRONG[/]'}  {one.name}: {escape(one.answer)}"
        )
    console.print(times_table(asked))
    console.print(verdict(asked))
    console.print(f"[dim]{time.monotonic() - begun:.1f} s in all; Triton and the sidecar have ended[/]")
    return 0 if all(one.right for one in asked) else 1


@contextmanager
def step(words: str) -> Iterator[None]:
    """Says what happens now, before it happens."""
    console.print(f"[dim]>>[/] {words}")
    yield


def read_text(client: Client) -> Asked:
    """Asks the text recogniser what the picture says."""
    result = client.infer("ocr", MEDIA / "text.jpg")
    text = result.text("text")
    return Asked("text.jpg", f"{text!r}", text.strip() == EXPECTED_TEXT, result)


def hear_speech(client: Client) -> Asked:
    """Asks the voice detector when somebody speaks."""
    result = client.infer("vad", MEDIA / "speech.wav")
    speaks = np.flatnonzero(result.tensor("speech_probs").ravel() > THRESHOLD) * WINDOW_S
    if not speaks.size:
        return Asked("speech.wav", "nobody speaks", right=False, result=result)
    first, last = float(speaks[0]), float(speaks[-1])
    assert result.info is not None  # noqa: S101 - it was decoded
    assert result.info.audio is not None  # noqa: S101 - as a sound
    until = result.info.audio.duration_s - SPEECH_FROM_S
    right = abs(first - SPEECH_FROM_S) < SLACK_S and abs(last - until) < 2 * SLACK_S
    return Asked("speech.wav", f"somebody speaks from {first:.1f} s to {last:.1f} s", right, result)


def times_table(asked: Sequence[Asked]) -> Table:
    """A row a stage in the order of the path, a column a request, in milliseconds."""
    table = Table(title="milliseconds a stage", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("stage")
    for one in asked:
        table.add_column(one.name, justify="right")
    rows = zip(*(one.result.times.ms.values() for one in asked), strict=True)
    for stage, times in zip(asked[0].result.times.ms, rows, strict=True):
        table.add_row(stage, *(f"{ms:.2f}" for ms in times))
    return table


def verdict(asked: Sequence[Asked]) -> str:
    """What the accelerator was waiting for, over the requests, which were sent one after the other.

    While a request is in `deliver`, which is the way to the model server and back too, the accelerator
    has work; in every other stage it waits.
    """
    spent: dict[str, float] = {}
    for one in asked:
        for stage, ms in one.result.times.ms.items():
            spent[stage] = spent.get(stage, 0.0) + ms
    total = spent.pop("total")
    working = spent.pop("deliver")
    longest = max(spent, key=lambda stage: spent[stage])
    return (
        f"The accelerator had work (deliver, transport included) for {100 * working / total:.0f} % of "
        f"{total:.0f} ms; "
        f"the rest it waited, longest for {longest} ({spent[longest]:.1f} ms)."
    )


if __name__ == "__main__":
    sys.exit(main())
