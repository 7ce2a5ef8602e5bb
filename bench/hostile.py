"""Files that mean harm: what refusing a bomb costs, and what becomes of files with something wrong in them.

Bombs (`testbed/hostile/bombs.py`) go to probe and limits, as the front takes every item: of each stands the median of
CPU times of its thread, and the most that the process grew by in any. Memory is the kernel's peak, set back before
each, so what is taken and given back at once counts too. Those that are inert go on to a worker's whole job.

Mutants (`testbed/hostile/mutate.py`), so many of each format, go through all that front and worker do, in processes
that may die of it (`mutants.py`); some of them through a real server as well, whose replies must all be the caller's
errors or tensors, and which must be there in the end and answer.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

from bench.mutants import CHECKPOINTS, CORPUS, FORMATS, LIMITS, Prepared, Verdict, mutator, verdict
from bench.report import at_least, at_most, report
from inference_client import Client
from sidecar.errors import SidecarError
from sidecar.media import Source
from sidecar.stages.admit.limits import Limits
from sidecar.stages.probe import IMAGE_FORMATS, probe
from testbed.hostile.bombs import BOMBS, INERT
from testbed.memory import peak, renewed_peak
from testbed.sidecar import sidecar_process

ROUNDS: Final = 100_000
"""Mutants of each format."""

_TRIES: Final = 5
_BOUND_MS: Final = 50.0
# What probe may take whatever a header claims: PNG's texts unpack to 4 MiB in all.
_BOUND_BYTES: Final = 8 << 20
# One in so many mutants goes to a real server too, so many in a call.
_SERVED: Final = 50
_A_CALL: Final = 25
# What the caller of a real server may be told of an item.
_TOLD: Final = frozenset(
    ("UNSUPPORTED_MEDIA", "CORRUPT_MEDIA", "MEDIA_TOO_LARGE", "WRONG_MODALITY", "UNAFFORDABLE")
)


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Takes about an hour of two cores with all its mutants, and some minutes with a thousand."""
    cases = list(_bombs())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as crew:
        found = list(crew.map(lambda name: verdict(name, rounds), FORMATS))
    cases += [_case(each) for each in found]
    cases.append(_served(max(1, rounds // _SERVED)))
    return report("hostile", cases, targets(cases))


def targets(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold of all that was seen."""
    bombs = [case for case in cases if case["kind"] == "bomb"]
    inert = [case for case in cases if case["kind"] == "inert"]
    mutants = [case for case in cases if case["kind"] == "mutants"]
    served = [case for case in cases if case["kind"] == "served"]
    return [
        at_least("bombs that are refused before decoding, of all", _mean(bombs, "refused"), 1.0),
        at_most("CPU ms of the slowest refusal", max(case["cpu_ms"] for case in bombs), _BOUND_MS),
        at_most(
            "MiB that the process grew by in the worst",
            max(case["grown_mib"] for case in bombs),
            _BOUND_BYTES / 2**20,
        ),
        at_least("inert files that end as they must, of all", _mean(inert, "sound"), 1.0),
        *(
            at_most(f"mutants that {words}", sum(case[key] for case in mutants), 0)
            for key, words in (
                ("crashes", "ended their process"),
                ("hangs", "went on past their lease"),
                ("over_memory", "took more memory than foretold"),
                ("outside", "ended in an error outside the table"),
            )
        ),
        at_most("replies of a real server outside the table", sum(case["outside"] for case in served), 0),
        at_least("real servers that answer in the end, of all", _mean(served, "answers"), 1.0),
    ]


def _mean(cases: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.mean(float(case[key]) for case in cases)


def _bombs() -> Iterator[dict[str, Any]]:
    limits = Limits()

    def at_the_door(data: bytes) -> str:
        source = Source(data)
        try:
            limits.check(source, probe(source))
        except SidecarError as error:
            return error.reason
        return ""

    for path in sorted((CORPUS / "audio").iterdir()):
        at_the_door(path.read_bytes())  # what is loaded at first use
    for name, make in BOMBS.items():
        data = make()
        tries = [_measured(at_the_door, data) for _ in range(_TRIES)]
        yield {
            "case": name,
            "kind": "bomb",
            "bytes": len(data),
            "reason": tries[0][0],
            "refused": all(reason for reason, _, _ in tries),
            "cpu_ms": round(statistics.median(ms for _, ms, _ in tries), 3),
            "grown_mib": round(max(grown for _, _, grown in tries) / 2**20, 3),
        }
    prepared = {kind: Prepared(kind) for kind in (IMAGE_FORMATS[0], "wav")}
    for name, make in INERT.items():
        worker = prepared[IMAGE_FORMATS[0] if name.endswith((".png", ".tif", ".gif")) else "wav"]
        data = make()
        found = [worker.outcome(data, turn) for turn in range(6)][
            3:
        ]  # once each with what is loaded at first use
        yield {
            "case": name,
            "kind": "inert",
            "end": found[0].end,
            "sound": all(each.end != "outside" for each in found),
            "cpu_ms": round(max(each.cpu_ns for each in found) / 1e6, 3),
            "excess_mib": round(max(each.excess for each in found) / 2**20, 3),
        }


def _measured(take: Callable[[bytes], str], data: bytes) -> tuple[str, float, int]:
    """What was said, CPU milliseconds of this thread, and bytes that the process has grown by meanwhile at most."""
    held = renewed_peak()
    begun = time.thread_time_ns()
    said = take(data)
    spent = time.thread_time_ns() - begun
    return said, spent / 1e6, max(0, peak() - held)


def _case(found: Verdict) -> dict[str, Any]:
    told = asdict(found)
    return {"case": f"mutants of {found.format}", "kind": "mutants", **told.pop("ends"), **told}


def _served(count: int) -> dict[str, Any]:
    """So many mutants of each format through a real server with worker processes."""
    models = {"clip": CHECKPOINTS / "clip-vit-base-patch32", "whisper": CHECKPOINTS / "whisper-tiny"}
    settings = {f"models.{name}.recipe": str(path) for name, path in models.items()}
    settings |= {
        f"limits.{key}": str(getattr(LIMITS, key)) for key in ("image_pixels", "image_side", "decoded_bytes")
    }
    settings |= {"cache.enabled": "false", "log.level": "error"}
    reasons: dict[str, int] = {}
    with sidecar_process(settings) as running, Client(running.address, timeout=120.0) as client:
        for name in FORMATS:
            model, mutants = "clip" if name in IMAGE_FORMATS else "whisper", mutator(name)
            for first in range(0, count, _A_CALL):
                media = [mutants.mutant(number) for number in range(first, min(first + _A_CALL, count))]
                for answer in client.preprocess(model, media):
                    reason = answer.problem.reason if answer.problem is not None else "decoded"
                    reasons[reason] = reasons.get(reason, 0) + 1
        good = next((CORPUS / "image").glob("jpeg_420.jpg")).read_bytes()
        answers = client.preprocess("clip", good).problem is None and running.process.poll() is None
    return {
        "case": f"{count} mutants of each format through a real server",
        "kind": "served",
        "answers": answers,
        "outside": sum(number for reason, number in reasons.items() if reason not in {*_TOLD, "decoded"}),
        **{reason.lower(): number for reason, number in sorted(reasons.items())},
    }
