"""`sidecar top`: what the accelerator and the sidecar are at, live in a terminal.

What is shown is a pure function of the last verdict (`frame`); around it is a loop that watches one sidecar, says so
where it is gone, and comes back to it. It only looks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from inference_client import (
    AcceleratorState,
    AsyncClient,
    CallCancelled,
    Client,
    Diagnosis,
    Finding,
    Fleet,
    Gpu,
    Lane,
    ServerUnavailable,
    SidecarError,
    StageLoad,
    StarvationLevel,
    UpstreamVerdict,
)
from sidecar.cli import words
from sidecar.cli.doctor import NO_ANSWER, add_whom
from sidecar.cli.identity import identity

_PATIENCE_S: Final = 10.0
# Between two tries to reach a sidecar that was there.
_RETRY_S: Final = 1.0
# Verdicts come twice a second: one that is older is shown as old.
_FRESH_S: Final = 3.0
# From here on what goes together stands side by side.
_WIDE: Final = 100
_MOST_ADVICE: Final = 2
_MOST_WORKERS: Final = 8

# How a state looks, with colours and without.
_LOOKS: Final[Mapping[AcceleratorState, tuple[str, str, str]]] = {
    AcceleratorState.BUSY: ("busy", "█", "green"),
    AcceleratorState.IDLE_PREP: ("starved", "▓", "red"),
    AcceleratorState.IDLE_XFER: ("transfer", "▒", "magenta"),
    AcceleratorState.IDLE_BATCH: ("batch", "░", "yellow"),
    AcceleratorState.HUNG: ("hung", "!", "bold red"),
    AcceleratorState.IDLE_DEMAND: ("no demand", "·", "bright_black"),
    AcceleratorState.UNKNOWN: ("unknown", "?", "bright_black"),
}
_STAGES: Final = ("receive", "probe", "admit", "decode", "transform", "pack", "deliver", "respond")
_CLASSES: Final = ("up to 4 ms", "up to 16 ms", "up to 64 ms", "up to 256 ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sidecar top`."""
    add_whom(parser)
    parser.add_argument(
        "--window",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="over how many of the last seconds to look, up to 60 (default: the sidecar's `verdict.window_s`)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="between two pictures, at least (default: whenever there is a new one, every second or half)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print one picture and end, as is done where there is no terminal"
    )
    parser.add_argument(
        "--width", type=int, metavar="COLUMNS", help="how wide it is (default: as the terminal is)"
    )


def top(options: argparse.Namespace) -> int:
    """Shows it until it is told to end. Returns 0, or 2 where no verdict can be had."""
    console = Console(width=options.width)
    try:
        if options.once or not console.is_terminal:
            with Client(options.address, timeout=_PATIENCE_S, **identity(options)) as client:
                diagnosis = client.verdict(options.upstream, options.window)
            console.print(frame(diagnosis, options.address))
        else:
            asyncio.run(_live(options, console))
    except SidecarError as error:
        line = words.trouble(error, options.address, _PATIENCE_S)
        print(f"sidecar: {line}", file=sys.stderr)  # noqa: T201 - a command talks to its terminal
        return NO_ANSWER
    return 0


# --- what is shown ---


def frame(diagnosis: Diagnosis, address: str, notice: str = "") -> RenderableType:
    """The whole picture; `notice` is what is wrong with it."""
    parts: list[RenderableType] = [_header(diagnosis, address)]
    if notice:
        parts.append(Text(notice, style="bold yellow"))
    asked = [each for each in diagnosis.upstreams if not _is_quiet(each)]
    # The worst first: what does not fit a terminal is cut off at its bottom.
    parts += map(_upstream, sorted(asked, key=lambda each: (not each.alarm, -each.starved)))
    parts += [Text(f"  {each.summary}", style="dim") for each in diagnosis.upstreams if _is_quiet(each)]
    if not diagnosis.upstreams:
        parts.append(Text(words.NOTHING_WATCHED))
    parts += [
        Text(),
        _Beside(
            _stages(diagnosis.stages, diagnosis.window_s),
            Group(_lanes(diagnosis.lanes), Text(), _fleet(diagnosis.fleet)),
        ),
    ]
    if diagnosis.machine is not None:
        parts += [Text(), _titled("machine", words.machine_words(diagnosis.machine))]
    if diagnosis.gpus:
        parts += [Text(), _gpus(diagnosis.gpus)]
    return Group(*parts)


def _is_quiet(verdict: UpstreamVerdict) -> bool:
    return verdict.finding is Finding.NO_DEMAND and not verdict.alarm and not verdict.rows_per_s


def _header(diagnosis: Diagnosis, address: str) -> Text:
    """Whom it is about, and the one thing to know."""
    alarms = [each.upstream for each in diagnosis.upstreams if each.alarm]
    state = (
        Text(f" ALARM: {', '.join(alarms)} ", "bold white on red") if alarms else Text("no alarm", "green")
    )
    return Text.assemble(Text(words.title(diagnosis, address), "bold"), "   ", state)


def _upstream(verdict: UpstreamVerdict) -> RenderableType:
    severe = verdict.level is StarvationLevel.SEVERE or verdict.finding is Finding.HUNG
    colour = "red" if verdict.alarm or severe else "yellow" if _is_moderate(verdict) else "green"
    rows: list[RenderableType] = [Text(verdict.summary, style=f"bold {colour}")]
    if verdict.alarm:
        rows.append(Text(f"alarm, for {words.seconds(verdict.alarm_for_s)}", style="bold red"))
    rows += [StateBar(verdict.shares), _legend(verdict.shares), Text(words.rates(verdict))]
    if causes := words.starved_by(verdict):
        told = ", ".join(f"{cause} {words.percent(share)}" for cause, share in causes)
        rows.append(Text(f"starved by: {told}"))
    if verdict.underfilled:
        lost = words.percent(verdict.underfilled)
        rows.append(Text(f"underfilled: {lost} lost in batches with room for rows in preprocessing"))
    rows += [Text(f"try: {advice}", style="cyan") for advice in verdict.advice[:_MOST_ADVICE]]
    if verdict.note:
        rows.append(Text(f"note: {verdict.note}", style="dim"))
    return Panel(
        Group(*rows), title=Text(verdict.upstream), title_align="left", border_style=colour, padding=(0, 1)
    )


def _is_moderate(verdict: UpstreamVerdict) -> bool:
    waits = {Finding.STARVED, Finding.TRANSPORT, Finding.BATCH}
    return verdict.level is StarvationLevel.MODERATE or verdict.finding in waits


@dataclass(frozen=True, slots=True)
class StateBar:
    """The states of the window as one bar, as wide as there is room; each state has its own mark and colour."""

    shares: Mapping[AcceleratorState, float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for state, cells in self.cells(options.max_width).items():
            _, mark, style = _LOOKS[state]
            yield Segment(mark * cells, console.get_style(style))
        yield Segment.line()

    def cells(self, width: int) -> dict[AcceleratorState, int]:
        """How many of `width` cells each state has: together all of them, by largest remainders."""
        exact = {state: self.shares.get(state, 0.0) * width for state in _LOOKS}
        cells = {state: int(part) for state, part in exact.items()}
        left = round(sum(exact.values())) - sum(cells.values())
        for state in sorted(exact, key=lambda each: cells[each] - exact[each])[: max(0, left)]:
            cells[state] += 1
        return cells


def _legend(shares: Mapping[AcceleratorState, float]) -> Text:
    legend = Text()
    for state, (name, mark, style) in _LOOKS.items():
        if shares.get(state, 0.0) or state is AcceleratorState.BUSY:
            share = 100 * shares.get(state, 0.0)
            told = "<1" if 0 < share < 0.5 else f"{share:.0f}"  # noqa: PLR2004 - what would be told as 0
            legend.append(f"{mark} ", style).append(f"{name} {told} %  ")
    legend.rstrip()
    return legend


def _stages(stages: tuple[StageLoad, ...], window_s: float) -> RenderableType:
    """How many calls or items were in each stage at once, on average."""
    table = _table("stages, calls or items at once")
    most = max((each.seconds for each in stages), default=0.0)
    order = {stage: place for place, stage in enumerate(_STAGES)}
    ordered = sorted(
        stages,
        key=lambda each: (
            not each.modality,
            each.modality or "",
            order.get(each.stage, len(order)),
            each.stage,
        ),
    )
    for modality, loads in groupby(ordered, key=lambda each: each.modality):
        name = modality or "no media"
        for load in loads:
            table.add_row(
                Text(name), Text(load.stage), _bar(load.seconds, most), Text(f"{load.seconds / window_s:.2f}")
            )
            name = ""
    if not stages:
        return Group(table, Text("no call ended", style="dim"))
    return table


def _lanes(lanes: tuple[Lane, ...]) -> RenderableType:
    table = _table("lanes, what waits for a worker")
    most = max((each.queued_cpu_s for each in lanes), default=0.0)
    for lane in lanes:
        kind = _CLASSES[lane.cost_class] if lane.cost_class < len(_CLASSES) else "more"
        table.add_row(
            Text(lane.modality),
            Text(kind),
            _bar(lane.queued_cpu_s, most),
            Text(f"{lane.queued} items, {lane.queued_cpu_s:.2f} s of a core"),
        )
    return table


def _fleet(fleet: Fleet) -> RenderableType:
    table = _table("workers, cores used")
    busiest = sorted(fleet.workers, key=lambda each: -each.cores)
    for worker in busiest[:_MOST_WORKERS]:
        table.add_row(
            Text("pid"), Text(str(worker.pid)), _bar(worker.cores, 1.0), Text(f"{worker.cores:.2f}")
        )
    if others := busiest[_MOST_WORKERS:]:
        cores = sum(each.cores for each in others)
        table.add_row(Text("and"), Text(f"{len(others)} more"), Text(), Text(f"{cores:.2f}"))
    return Group(table, Text(words.fleet_words(fleet)))


def _gpus(gpus: tuple[Gpu, ...]) -> RenderableType:
    table = _table("GPUs, as their driver has them")
    for gpu in gpus:
        told = f"{words.percent(gpu.utilisation)}, memory {words.percent(gpu.memory)}"
        table.add_row(Text(str(gpu.index)), Text(gpu.name), _bar(gpu.utilisation, 1.0), Text(told))
    return table


def _table(title: str) -> Table:
    """Two names, a bar that takes what room there is, and a figure."""
    table = Table(
        box=None,
        expand=True,
        padding=(0, 1, 0, 0),
        show_header=False,
        title=Text(title, "bold"),
        title_justify="left",
    )
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=6)
    table.add_column(justify="right", no_wrap=True)
    return table


def _titled(title: str, told: str) -> RenderableType:
    return Group(Text(title, "bold"), Text(told))


def _bar(value: float, most: float) -> RenderableType:
    return Bar(1.0, 0.0, min(1.0, value / most) if most else 0.0, color="cyan")


@dataclass(frozen=True, slots=True)
class _Beside:
    """Two things side by side where there is room, else one below the other."""

    left: RenderableType
    right: RenderableType

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < _WIDE:
            yield from (self.left, Text(), self.right)
            return
        both = Table.grid(expand=True, padding=(0, 3, 0, 0), pad_edge=False)
        both.add_column(ratio=1)
        both.add_column(ratio=1)
        both.add_row(self.left, self.right)
        yield both


# --- the loop around it ---


@dataclass(slots=True)
class _Seen:
    """The last verdict, when it was heard, and what keeps the next one away."""

    latest: Diagnosis | None = None
    heard_at: float = field(default_factory=time.monotonic)
    trouble: str = ""
    is_new: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, diagnosis: Diagnosis) -> None:
        self.latest, self.heard_at, self.trouble = diagnosis, time.monotonic(), ""
        self.is_new.set()

    def miss(self, trouble: str) -> None:
        self.trouble = trouble
        self.is_new.set()

    def picture(self, address: str, fresh_s: float) -> RenderableType:
        """The last frame, with a word on how old it is once it is."""
        age_s = time.monotonic() - self.heard_at
        notice = f"{self.trouble} Trying again each second." if self.trouble else ""
        if not notice and age_s > fresh_s:
            notice = f"Nothing was heard of {address} for {words.seconds(age_s)}."
        if self.latest is None:
            return Text(notice or f"asking {address} ...")
        if notice:
            notice += f" What is shown is {words.seconds(age_s)} old."
        return frame(self.latest, address, notice)


async def _live(options: argparse.Namespace, console: Console) -> None:
    """Watches and draws, until q or a signal. Raises SidecarError where there never was a verdict."""
    ended, seen = asyncio.Event(), _Seen()
    with _ending(ended), Live(console=console, screen=True, auto_refresh=False) as live:
        tasks = [
            asyncio.create_task(_watch(options, seen)),
            asyncio.create_task(_draw(options, seen, live)),
            asyncio.create_task(ended.wait()),
        ]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


async def _watch(options: argparse.Namespace, seen: _Seen) -> None:
    """Watches one sidecar over and over again. Each time by a client of its own, which waits for no older failure."""
    while True:
        try:
            async with AsyncClient(options.address, **identity(options)) as client:
                verdicts = client.watch(options.upstream, options.window, options.interval)
                async with aclosing(verdicts):
                    async for diagnosis in verdicts:
                        seen.hear(diagnosis)
        except SidecarError as error:
            if seen.latest is None:
                raise
            is_gone = isinstance(error, ServerUnavailable | CallCancelled)
            gone = f"{options.address} does not answer: it restarts, or is gone."
            seen.miss(gone if is_gone else words.trouble(error, options.address, _PATIENCE_S))
        await asyncio.sleep(_RETRY_S)


async def _draw(options: argparse.Namespace, seen: _Seen, live: Live) -> None:
    """Draws what is new, and once a second how old it is."""
    while True:
        live.update(seen.picture(options.address, _FRESH_S + options.interval), refresh=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_S):
                await seen.is_new.wait()
        seen.is_new.clear()


@contextmanager
def _ending(ended: asyncio.Event) -> Iterator[None]:
    """Ends with a signal or the key q, and leaves the terminal as it was."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if not sys.stdin.isatty():
        yield
        return
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)

    def read() -> None:
        pressed = os.read(keys, 64)
        if not pressed or b"q" in pressed.lower():
            ended.set()

    tty.setcbreak(keys)
    loop.add_reader(keys, read)
    try:
        yield
    finally:
        loop.remove_reader(keys)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
