"""Was the verdict right? Over two hundred episodes on the real Triton, with an accelerator whose doings are on record.

Each is played on two cores, which the callers share: callers and accelerator first such that nothing is starved, then
a fault (`bench.episodes.plays`). Compared are the cause that the verdict names, the starved share of the last seconds
with the accelerator's and the model server's own records (`bench.episodes.truth`), and how soon the alarm rang. Then
the advice: what it foretold of another number of threads, and what they gave (`bench.episodes.what_if`); and what all
of it costs (`bench.episodes.overhead`).
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from multimodal.v1 import diagnostics_pb2 as pb

from bench.episodes.accelerator import accepted
from bench.episodes.overhead import overhead
from bench.episodes.plays import WINDOW_S, Played, Troupe, episodes
from bench.episodes.stage import stage
from bench.episodes.truth import Truth, truth
from bench.episodes.what_if import what_if
from bench.load import percentile
from bench.report import at_least, at_most, report

ROUNDS = 3
_AHEAD_NS = 2_000_000_000


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Plays everything, about half an hour. Raises CannotInstall where no Triton can run."""
    with tempfile.TemporaryDirectory() as folder:
        with stage(Path(folder)) as on:
            troupe = Troupe(on)
            played = [troupe.play(each) for each in episodes(rounds)]
            told = {"kind": on.kind, "quota": on.quota.kind}
            rates = dict(troupe.rates)
            trace = on.trace
        truths = _truths(played, trace)
    cases = [_case(one, true) for one, true in zip(played, truths, strict=True)]
    confusion = _confusion(cases)
    foretold = what_if(rounds)
    costs = overhead(rounds)
    return {
        **report("verdict", [*cases, *foretold, *costs], _targets(cases, foretold, costs)),
        "stage": {"accelerator": told["kind"], "quota": told["quota"], "rates": rates},
        "confusion": confusion,
        "f1": _f1(confusion),
    }


def _truths(played: Sequence[Played], trace: Path) -> list[Truth]:
    by_model = accepted(trace)
    return [_truth(one, by_model) for one in played]


def _truth(one: Played, by_model: Mapping[str, Any]) -> Truth:
    begun_ns = one.ended_ns - int(WINDOW_S * 1e9)
    first = int(one.calls[:, 0].min()) if one.calls.size else begun_ns
    requests = by_model.get(one.episode.upstream, np.empty((0, 2), np.int64))
    requests = requests[(requests[:, 0] >= first) & (requests[:, 0] <= one.ended_ns + _AHEAD_NS)]
    executions = one.executions[one.executions[:, 0] >= first - _AHEAD_NS]
    return truth(begun_ns, one.ended_ns, executions, requests, one.calls, one.held_ns)


def _case(one: Played, true: Truth) -> dict[str, Any]:
    episode, told = one.episode, one.told
    total = sum(each.seconds for each in told.states) or 1.0
    return {
        "case": f"{episode.kind} {episode.level:g}, {episode.media}",
        "kind": episode.kind,
        "media": episode.media,
        "level": episode.level,
        "label": episode.label,
        "found": _found(told),
        "shares": episode.shares,
        "starved": round(told.starved, 4),
        "true_starved": round(true.starved, 4),
        "busy": round(
            sum(each.seconds for each in told.states if each.state == pb.ACCELERATOR_STATE_BUSY) / total, 4
        ),
        "true_busy": round(true.busy, 4),
        "onset": episode.onset,
        "alarm_s": None if one.alarm_s is None else round(one.alarm_s, 3),
        "rang": one.rang,
    }


def _found(told: pb.UpstreamVerdict) -> str:
    """What the verdict names, in the words of the labels: a cause where it is starved, else the finding."""
    if told.finding == pb.FINDING_STARVED:
        return pb.Cause.Name(told.cause).removeprefix("CAUSE_").lower()
    # Before anybody asked there is no verdict, and nobody asks.
    name = pb.Finding.Name(told.finding).removeprefix("FINDING_").lower()
    return "no_demand" if name == "unspecified" else name


def _confusion(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each label was found to be what."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        counts[case["label"]][case["found"]] += 1
    return {label: dict(found) for label, found in sorted(counts.items())}


def _f1(confusion: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """F1 of each label: the harmonic mean of how many found were right, and how many right were found."""
    scores = {}
    for label, row in confusion.items():
        right = row.get(label, 0)
        found = sum(other.get(label, 0) for other in confusion.values())
        scores[label] = round(2 * right / (sum(row.values()) + found), 4)
    return scores


def _targets(
    cases: Sequence[Mapping[str, Any]],
    foretold: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What the cases must reach."""
    by_level: defaultdict[float, list[float]] = defaultdict(list)
    for case in cases:
        if case["shares"] and case["true_starved"] <= _MOST_LEVEL:
            by_level[round(case["true_starved"], 1)].append(case["starved"] - case["true_starved"])
    scores = _f1(_confusion(cases)).values()
    silent = [case for case in cases if case["kind"] in _SILENT]
    late = [case["alarm_s"] if case["alarm_s"] is not None else _NEVER_S for case in cases if case["onset"]]
    misses = [each["error"] for each in foretold]
    return [
        at_least("episodes", len(cases), 200),
        *[
            at_most(
                f"starved share at {level:.0%}, beside the truth: mean error, percentage points",
                round(100 * abs(float(np.mean(errors))), 2),
                2,
            )
            for level, errors in sorted(by_level.items())
        ],
        at_most(
            "starved share beside the truth, nine of ten episodes, percentage points",
            round(100 * percentile([abs(error) for errors in by_level.values() for error in errors], 90), 2),
            2,
        ),
        at_least("macro-F1 of the cause", round(float(np.mean(list(scores))), 4), 0.97),
        at_most(
            "alarms without demand or with the accelerator as the limit", sum(c["rang"] for c in silent), 0
        ),
        at_most("p99 from onset to alarm, s", round(percentile(late, 99), 2), 2),
        at_most(
            "foretold throughput beside measured, p95 of the error", round(percentile(misses, 95), 4), 0.10
        ),
        *[
            at_most(f"CPU of a request for watching it, {_size(each)}, {how}, µs", each[figure], 10)
            for each in costs
            for how, figure in (("interleaved A/B", "more_cpu_us"), ("by its own clock", "own_cpu_us"))
        ],
        *[
            at_most(f"throughput that watching costs, {_size(each)}", each["lost_throughput"], 0.005)
            for each in costs
        ],
    ]


def _size(case: Mapping[str, Any]) -> str:
    return str(case["case"]).rpartition(" ")[2]


_SILENT = ("accelerator", "nobody", "few")
_MOST_LEVEL = 0.85
# Stands for an alarm that never rang.
_NEVER_S = 60.0
