"""`sidecar tune`: the best plan for somebody's own media and models on this machine, found by trying.

It starts a server of its own on a socket in a temporary folder, without a model server, sends it the corpus by callers
who wait for their answers, moves its plan while it runs, and compares. Every plan is tried twice, there and back, so
that a machine that becomes faster or slower is so for all. It changes nothing but the files that it is told to write.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from inference_client import AsyncClient, Client, SidecarError
from sidecar.catalogue import ModelConfig, recipe_of
from sidecar.cli.plot import Curve, Panel, curves
from sidecar.errors import MediaError, SettingsError
from sidecar.media import ImageInfo, Modality, Source
from sidecar.stages.probe import probe

_MOST_BYTES: Final = 256 << 20
_START_S: Final = 120.0
# Of a trial, what is left out: the plan has just been moved.
_SETTLES_S: Final = 0.5
# Plans within this of the best do as much, and the one with the fewest threads is taken.
_ALIKE: Final = 0.02
_IMAGE, _AUDIO = "threads.image", "threads.audio"
_KEYS: Final[Mapping[Modality, str]] = {Modality.IMAGE: _IMAGE, Modality.AUDIO: _AUDIO}


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that is tried: how pictures are decoded (`exact` or `fast`), and threads by the settings' names."""

    mode: str
    threads: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.threads.values())


@dataclass(slots=True)
class Tried:
    """What a plan gave: seconds of trial, and how long each item took, milliseconds."""

    plan: Plan
    seconds: float = 0.0
    took_ms: list[float] = field(default_factory=list)

    @property
    def items_per_s(self) -> float:
        return len(self.took_ms) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """How long so many percent of the items took at most."""
        if not self.took_ms:
            return 0.0
        ordered = sorted(self.took_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sidecar tune`."""
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        metavar="DIR",
        help="media like yours: all files below are looked at",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="a model's directory, with its preprocessor_config.json; once for pictures, once for sounds",
    )
    parser.add_argument(
        "--p99",
        type=_positive,
        metavar="MS",
        help="the best plan is one whose 99th percentile is no longer than this",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=3.0,
        metavar="S",
        help="how long each trial takes (default: 3; two a plan)",
    )
    parser.add_argument(
        "--callers",
        type=int,
        default=0,
        metavar="N",
        help="who wait for answers at once (default: four a CPU)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write plan.yaml, values.yaml and tune.svg here"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def tune(options: argparse.Namespace) -> int:
    """Tries, and tells. Raises SettingsError for a corpus or recipes that nothing can be tried with."""
    media = corpus(options.corpus)
    recipes = _recipes(options.recipe, media)
    cpus = len(os.sched_getaffinity(0))
    plans = plans_for(recipes, cpus)
    callers = options.callers or 4 * cpus
    console = Console(stderr=True)
    with _server(recipes) as address, Progress(console=console, transient=True) as progress:
        task = progress.add_task("trying plans", total=2 * len(plans))
        tried = {id(plan): Tried(plan) for plan in plans}
        for plan in (*plans, *reversed(plans)):
            with Client(address) as client:
                client.set_thread_plan(dict(plan.threads))
            items = _items(media, recipes, plan.mode)
            seconds, took_ms = asyncio.run(_send(address, items, callers, options.seconds))
            one = tried[id(plan)]
            one.seconds += seconds
            one.took_ms += took_ms
            progress.advance(task)
    found = list(tried.values())
    best = best_of(found, options.p99)
    files = written(found, best, callers)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (options.out / name).write_text(text, encoding="utf-8")
    if options.json:
        print(json.dumps(_fields(found, best), indent=2))  # noqa: T201 - a command talks to its terminal
    else:
        _show(found, best, options, files["plan.yaml"])
    return 0 if best is not None else 1


def corpus(folder: Path) -> dict[Modality, list[bytes]]:
    """Encoded media below a folder by modality; of more than 256 MiB a part, chosen evenly. Raises SettingsError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    random.Random(0).shuffle(files)  # noqa: S311 - the same part each time, and no secret
    found: dict[Modality, list[bytes]] = {}
    left = _MOST_BYTES
    for path in files:
        if path.stat().st_size > left:
            continue
        source = Source(path.read_bytes())
        try:
            info = probe(source)
        except MediaError:
            continue
        left -= len(source.data)
        modality = Modality.IMAGE if isinstance(info, ImageInfo) else Modality.AUDIO
        found.setdefault(modality, []).append(bytes(source.data))
    if not found:
        raise SettingsError(
            f"`--corpus` {folder} has no picture and no sound that the sidecar can read, of {len(files)} files",
            key="--corpus",
            value=folder,
        )
    return found


def _recipes(folders: Sequence[Path], media: Mapping[Modality, object]) -> dict[Modality, Path]:
    """A recipe's directory for every modality of the corpus. Raises RecipeError, and SettingsError for one too few."""
    found: dict[Modality, Path] = {}
    for folder in folders:
        recipe = recipe_of(folder.name, ModelConfig(recipe=folder))
        assert recipe is not None  # noqa: S101 - a directory was given
        found[recipe.modality] = folder.resolve()
    for modality in media:
        if modality not in found:
            raise SettingsError(
                f"`--corpus` has {modality.value} files, and no `--recipe` is for them: give a model's directory, or a "
                "corpus without them",
                key="--recipe",
                value=", ".join(map(str, folders)),
            )
    return {modality: folder for modality, folder in found.items() if modality in media}


def plans_for(recipes: Mapping[Modality, Path], cpus: int) -> list[Plan]:
    """What is tried: a thread up to twice the CPUs for each kind that there is, in every combination; pictures both
    exact and fast.
    """
    counts = sorted({1, 2, *range(max(1, cpus // 2), cpus + 2, max(1, cpus // 4)), 2 * cpus})
    ranges = [[(key, count) for count in counts] for modality, key in _KEYS.items() if modality in recipes]
    modes = ("exact", "fast") if Modality.IMAGE in recipes else ("exact",)
    return [Plan(mode, dict(threads)) for mode in modes for threads in itertools.product(*ranges)]


def best_of(tried: Sequence[Tried], p99_ms: float | None) -> Tried | None:
    """The plan that does most of those that are quick enough, exact ones alone; None where none is. Among plans that
    do as much the one with the fewest threads.
    """
    able = [
        one
        for one in tried
        if one.plan.mode == "exact" and one.took_ms and (p99_ms is None or one.percentile_ms(99) <= p99_ms)
    ]
    if not able:
        return None
    most = max(one.items_per_s for one in able)
    return min(
        (one for one in able if one.items_per_s >= (1 - _ALIKE) * most),
        key=lambda one: (one.plan.total, -one.items_per_s),
    )


def written(tried: Sequence[Tried], best: Tried | None, callers: int) -> dict[str, str]:
    """Files by name: the settings, the chart's values, and a picture of all that was tried."""
    files = {"tune.svg": _drawn(tried, callers), "plan.yaml": "", "values.yaml": ""}
    if best is not None:
        threads = {"threads": {key.partition(".")[2]: number for key, number in best.plan.threads.items()}}
        head = (
            f"# {best.items_per_s:.1f} items/s, p99 {best.percentile_ms(99):.0f} ms with {callers} callers\n"
        )
        files["plan.yaml"] = head + yaml.safe_dump(threads, sort_keys=False)
        files["values.yaml"] = head + yaml.safe_dump({"config": threads}, sort_keys=False)
    return files


def _drawn(tried: Sequence[Tried], callers: int) -> str:
    groups: dict[str, list[Tried]] = {}
    for one in tried:
        audio = f", {one.plan.threads[_AUDIO]} audio" if len(one.plan.threads) > 1 else ""
        groups.setdefault(f"{one.plan.mode}{audio}", []).append(one)
    across = _IMAGE if any(_IMAGE in one.plan.threads for one in tried) else _AUDIO

    def panel(label: str, of: str) -> Panel:
        return Panel(
            label,
            [
                Curve(name, [(one.plan.threads[across], _figure(one, of)) for one in group])
                for name, group in groups.items()
            ],
        )

    panels = [panel("items a second", "rate"), panel("p99, ms", "p99")]
    return curves(f"What plans give, {callers} callers", across, panels)


def _figure(one: Tried, of: str) -> float:
    return one.items_per_s if of == "rate" else one.percentile_ms(99)


def _items(
    media: Mapping[Modality, Sequence[bytes]], recipes: Mapping[Modality, Path], mode: str
) -> list[tuple[str, bytes]]:
    """Models and what is sent to them, in the corpus' own mix."""
    items = [
        (f"{modality.value}-{mode if modality is Modality.IMAGE else 'exact'}", data)
        for modality in recipes
        for data in media[modality]
    ]
    random.Random(0).shuffle(items)  # noqa: S311 - the same order each time, and no secret
    return items


async def _send(
    address: str, items: Sequence[tuple[str, bytes]], callers: int, seconds: float
) -> tuple[float, list[float]]:
    """Callers in closed loops for so long; the seconds that count, and how long each item took, milliseconds."""
    took_ms: list[float] = []
    turns = itertools.cycle(items)
    since = time.monotonic() + _SETTLES_S
    until = since + seconds

    async def caller(client: AsyncClient) -> None:
        while (begun := time.monotonic()) < until:
            model, data = next(turns)
            await client.preprocess(model, data, fresh=True)
            ended = time.monotonic()
            if since <= ended < until:
                took_ms.append((ended - begun) * 1e3)

    async with AsyncClient(address) as client, asyncio.TaskGroup() as calls:
        for _ in range(callers):
            calls.create_task(caller(client))
    return seconds, took_ms


@contextlib.contextmanager
def _server(recipes: Mapping[Modality, Path]) -> Iterator[str]:
    """A server for the trials, ended with the block; its address. Raises SettingsError where it does not start."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/sidecar.sock"
        settings = {
            "server.listen": f"[{address!r}]",
            "metrics.listen": "",
            "log.level": "error",
            "cache.enabled": "false",
            "verdict.enabled": "false",
        }
        for modality, recipe in recipes.items():
            for mode in ("exact", "fast") if modality is Modality.IMAGE else ("exact",):
                name = f"models.{modality.value}-{mode}"
                settings |= {f"{name}.recipe": str(recipe), f"{name}.mode": mode}
        flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        process = subprocess.Popen([sys.executable, "-m", "sidecar", "serve", *flags])  # noqa: S603 - this interpreter, this package
        try:
            _await(process, address)
            yield address
        finally:
            process.terminate()
            process.wait()


def _await(process: subprocess.Popen[bytes], address: str) -> None:
    ends = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(SidecarError), Client(address) as client:
            client.thread_plan(timeout=1.0)
            return
        time.sleep(0.05)
    raise SettingsError(
        "the server for the trials did not start: its log stands above", key="--recipe", value=""
    )


def _show(tried: Sequence[Tried], best: Tried | None, options: argparse.Namespace, settings: str) -> None:
    console = Console()
    table = Table("", "pictures", *tried[0].plan.threads, "items/s", "p50 ms", "p99 ms", "")
    most = max(one.items_per_s for one in tried) or 1.0
    for one in tried:
        table.add_row(
            "best" if one is best else "",
            one.plan.mode,
            *map(str, one.plan.threads.values()),
            f"{one.items_per_s:.1f}",
            f"{one.percentile_ms(50):.0f}",
            f"{one.percentile_ms(99):.0f}",
            "█" * round(20 * one.items_per_s / most),
            style="bold" if one is best else None,
        )
    console.print(table)
    if best is None:
        console.print(
            f"No plan has a 99th percentile of {options.p99:g} ms: allow more, or give it more cores."
        )
    else:
        console.print(settings, end="")
    if options.out is not None:
        console.print(f"written to {options.out}: plan.yaml, values.yaml, tune.svg")


def _fields(tried: Sequence[Tried], best: Tried | None) -> dict[str, Any]:
    rows = [
        {
            "mode": one.plan.mode,
            **one.plan.threads,
            "items_per_s": round(one.items_per_s, 2),
            "p50_ms": round(one.percentile_ms(50), 1),
            "p99_ms": round(one.percentile_ms(99), 1),
            "items": len(one.took_ms),
        }
        for one in tried
    ]
    return {"tried": rows, "best": None if best is None else dataclasses.asdict(best.plan)}


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
