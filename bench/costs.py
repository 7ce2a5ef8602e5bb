"""The cost model against what jobs really take: CPU time of their threads, from the header's quote to the tensors.

Media are `bench.assortment.JUDGED`, of which none was fitted, and testbed's own; each goes to CLIP (also with
smaller decoding), to Qwen2-VL, or to Whisper, through `work`, as a worker runs it. The model is calibrated as a
server does it at its start, on this machine and by the same code, and learns nothing while it is judged. Of the
quotients of actual and quoted cost stand the median and the geometric standard deviation, in which a bias that is
the same for all does not show; so the medians have bounds as well.

The time of a header is told for the quote alone, for all that the front does to get there (the recipe's targets,
sizes, tokens and workload), and probe's before it. The bound is on the first two, but for the recipe whose plan
of a picture takes longest (Llama 4 tries all of its canvases), where it is on the quote alone.

A CPU that is half as fast cannot be had here: what another process takes from a core is not in a thread's time. So
the jobs' measured times are doubled and put before the model in a mixed order, as if the clock had been halved. It
has learned when from there on the median of 50 jobs is within a tenth.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

import testbed.media
from bench.assortment import JUDGED, Medium, pictures, sounds
from bench.report import at_least, at_most, report
from sidecar.arena.arena import Arena, ArenaConfig
from sidecar.arena.lease import Lease
from sidecar.deadline import Deadline
from sidecar.media import DataType, MediaInfo, Modality, Source
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages import fourier, kernels
from sidecar.stages.admit.cost import CostModel, Quote
from sidecar.stages.probe import probe
from sidecar.workers.budget import memory_limit
from sidecar.workers.calibrate import calibrate
from sidecar.workers.heap import keep_blocks
from sidecar.workers.worker import Done, Job, Outlet, work
from testbed.parity import FAMILY_CONFIGS, Keys, published

ROUNDS: Final = 3

_CLIP: Final = published("clip-vit-base-patch32")
_QWEN: Final = FAMILY_CONFIGS["Qwen2VLImageProcessor"]
_FAST: Final = "CLIP, fast"
_RECIPES: Final[Mapping[str, Keys]] = {
    "CLIP": _CLIP,
    _FAST: _CLIP,
    "Qwen2-VL": _QWEN,
    "Whisper": published("whisper-tiny"),
}
# Whose header takes longest to plan for.
_DEAR_PLAN: Final = "Llama4ImageProcessor"
# Of jobs, where what is learned is judged; and how near it must come.
_WINDOW: Final = 50
_NEAR: Final = 0.1
_SLOWER: Final = 2.0
_TURNS: Final = 400
_ROOM: Final = 192 << 20


@dataclass(slots=True)
class Case:
    """A medium on its way to a recipe, and the milliseconds that it took, a round after the other."""

    medium: Medium
    recipe_name: str
    recipe: Recipe
    info: MediaInfo
    ms: list[float] = field(default_factory=list)

    @property
    def types(self) -> Mapping[str, DataType]:
        return {spec.name: spec.data_type for spec in self.recipe.outputs}

    @property
    def actual_ms(self) -> float:
        return statistics.median(self.ms)

    def quoted(self, model: CostModel) -> Quote:
        """All that is asked about a header between probe and the gate."""
        target, types = self.recipe.decode_target(self.info), self.types
        self.recipe.output_bytes(self.info, types)
        self.recipe.tokens(self.info)
        return model.quote(self.info, target, self.recipe.workload(self.info, types))

    def job(self, room: memoryview) -> Job:
        """Its tensors go where others lay before, as in the arena."""
        source = Source(self.medium.data)
        target, types = self.recipe.decode_target(self.info), self.types
        sizes = self.recipe.output_bytes(self.info, types)
        outlets = {name: Outlet(0, room[:size]) for name, size in sizes.items()}
        return Job(source, self.info, self.recipe, target, types, Deadline(None), outlets=outlets)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures everything, in under two minutes."""
    keep_blocks()
    kernels.warm()
    fourier.warm()
    with threadpool_limits(1):
        cases, room = list(_cases()), memoryview(bytearray(_ROOM))
        for turn in range(-1, rounds):
            for each in cases:
                done = work(each.job(room))
                assert done.problem is None, (each.medium.name, done.problem)  # noqa: S101 - sound media
                if turn >= 0:
                    each.ms.append(done.cpu_ms)
        model = CostModel()
        factor = asyncio.run(_calibrated(model))
    told = [
        {"case": "calibration", "kind": "calibration", "machine": round(factor, 3)},
        *_judged(cases, model),
        *_headers(cases, model),
        _relearned(cases, model),
    ]
    return report("costs", told, targets(told))


def _cases() -> Iterator[Case]:
    folder = Path(testbed.media.__file__).parent
    own = [Medium(path.name, path.read_bytes()) for path in (folder / "text.jpg", folder / "speech.wav")]
    recipes = {name: _recipe(keys, fast=name == _FAST) for name, keys in _RECIPES.items()}
    for medium in (*pictures(JUDGED), *sounds(JUDGED), *own):
        info = probe(Source(medium.data))
        for name, recipe in recipes.items():
            if recipe.modality is info.modality and not (name == _FAST and info.format != "jpeg"):
                yield Case(medium, name, recipe, info)


def _recipe(keys: Keys, *, fast: bool = False) -> Recipe:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "preprocessor_config.json").write_text(json.dumps(keys))
        return load_recipe(Path(directory), fast=fast)


async def _calibrated(model: CostModel) -> float:
    """As a server does it, over an arena and threads."""

    async def at_once(job: Job, _held: Sequence[Lease]) -> Done:
        return await asyncio.to_thread(work, job)

    with closing(Arena.open(ArenaConfig(bytes=64 << 20), memory_limit())) as arena:
        factor = await calibrate(model, at_once, arena.try_take)
    assert factor is not None  # noqa: S101 - nothing is in its way here
    return factor


def _judged(cases: Sequence[Case], model: CostModel) -> Iterator[dict[str, Any]]:
    """Quotients of actual and quoted, by codec, by recipe and over all."""
    groups: dict[str, list[tuple[float, Case]]] = defaultdict(list)
    for each in cases:
        quote = each.quoted(model)
        log = math.log(each.actual_ms / quote.cost.cpu_ms)
        for name in (f"codec {quote.codec}", f"recipe {each.recipe_name}", "all"):
            groups[name].append((log, each))
    for name, found in groups.items():
        logs = [log for log, _ in found]
        worst = max(found, key=lambda one: abs(one[0]))
        yield {
            "case": f"actual ÷ quoted, {name}",
            "kind": "judged",
            "jobs": len(logs),
            "median": round(math.exp(statistics.median(logs)), 3),
            "gsd": round(math.exp(statistics.pstdev(logs)), 3),
            "worst": round(math.exp(worst[0]), 2),
            "worst_medium": worst[1].medium.name,
        }


def _headers(cases: Sequence[Case], model: CostModel) -> Iterator[dict[str, Any]]:
    """Microseconds a picture's header."""
    dear = _recipe(FAMILY_CONFIGS[_DEAR_PLAN])
    seen = [each for each in cases if each.info.modality is Modality.IMAGE and each.recipe_name != _FAST]
    names = sorted({each.recipe_name for each in seen})
    for name, chosen in (
        *((name, [each for each in seen if each.recipe_name == name]) for name in names),
        (_DEAR_PLAN, [Case(each.medium, _DEAR_PLAN, dear, each.info) for each in seen[::4]]),
    ):
        quotes, whole, probed = [], [], []
        for each in chosen * 5:
            target, load = each.recipe.decode_target(each.info), each.recipe.workload(each.info, each.types)
            quotes.append(_us(lambda: model.quote(each.info, target, load)))  # noqa: B023 - called at once
            other = next(case for case in chosen if case.info != each.info)
            other.recipe.tokens(other.info)  # so that no plan is at hand
            whole.append(_us(lambda: each.quoted(model)))  # noqa: B023
            probed.append(_us(lambda: probe(Source(each.medium.data))))  # noqa: B023
        yield {
            "case": f"a picture's header, {name}",
            "kind": "header",
            "quote_us": round(statistics.median(quotes), 1),
            "header_us": round(statistics.median(whole), 1),
            "header_p99_us": round(statistics.quantiles(whole, n=100)[98], 1),
            "probe_us": round(statistics.median(probed), 1),
        }


def _us(call: Any) -> float:  # noqa: ANN401 - anything that can be called
    begun = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - begun) / 1e3


def _relearned(cases: Sequence[Case], model: CostModel) -> dict[str, Any]:
    """How many jobs it takes until a CPU is known to be half as fast; first the model learns it as it is."""
    draws = random.Random(0)  # noqa: S311 - an order
    for each in draws.choices(cases, k=_TURNS):
        model.learn(each.quoted(model), draws.choice(each.ms))
    seldom = min({each.quoted(model).codec for each in cases}, key=lambda name: _count(cases, model, name))
    unseen = [each for each in cases if each.quoted(model).codec == seldom]
    logs = []
    for each in draws.choices([each for each in cases if each not in unseen], k=_TURNS):
        ms, quote = _SLOWER * draws.choice(each.ms), each.quoted(model)
        logs.append(math.log(ms / quote.cost.cpu_ms))
        model.learn(quote, ms)
    within = [
        abs(statistics.median(logs[at : at + _WINDOW])) <= math.log1p(_NEAR) for at in range(_TURNS - _WINDOW)
    ]
    learned = next(at for at in range(len(within) + 1) if all(within[at:]))
    left = [math.log(_SLOWER * each.actual_ms / each.quoted(model).cost.cpu_ms) for each in unseen]
    return {
        "case": "a CPU half as fast (times doubled)",
        "kind": "relearned",
        "jobs_until_learned": learned,
        "median_of_the_last_200": round(math.exp(statistics.median(logs[-200:])), 3),
        "codec_not_seen_since": seldom,
        "its_median": round(math.exp(statistics.median(left)), 3),
    }


def _count(cases: Sequence[Case], model: CostModel, codec: str) -> int:
    return sum(each.quoted(model).codec == codec for each in cases)


def targets(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the cases must reach."""
    held = []
    for case in cases:
        if case["kind"] == "judged" and case["case"].endswith("all"):
            held += [
                at_most("actual ÷ quoted, geometric standard deviation over all media", case["gsd"], 1.3),
                at_most("actual ÷ quoted, median over all media", case["median"], 1.15),
                at_least("actual ÷ quoted, median over all media", case["median"], 1 / 1.15),
            ]
        if case["kind"] == "header":
            held.append(at_most(f"{case['case']}, quote alone, µs", case["quote_us"], 50))
            if _DEAR_PLAN not in case["case"]:
                held.append(at_most(f"{case['case']}, µs", case["header_us"], 50))
        if case["kind"] == "relearned":
            held.append(at_most(f"{case['case']}, jobs until learned", case["jobs_until_learned"], 200))
    return held
