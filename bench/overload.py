"""Overload: what becomes of requests when more come than can be done, beside what other policies make of it.

Everything runs on two cores, and the load too: an open loop in this process (Poisson arrivals over eight connections,
requests serialised beforehand, times from the moment that the schedule says), which takes the cores before the
servers as far as it may, because it stands for machines of its own. How late it sent is in every case.

The mix and its deadlines are `bench.mix`'s: by count mostly small, by work mostly large. Loads are multiples of what
the sidecar does in a closed loop of the same mix with everything let in, measured in each round; `bench.contest`
says how work is counted. The other policies (`bench.policies`) run in the sidecar itself, in place of its own, so that
nothing but the policy differs. All callers tell their deadlines, and all servers let go of what waits for a caller who
has gone, which is more than those policies' own servers do.

A round measures capacity, then every load with every policy, in alternating order; a round is a seed. Shares are
medians of rounds, percentiles are over the answers of all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from bench.contest import (
    PULSE,
    STEP,
    Alone,
    Capacity,
    Figures,
    Stretch,
    alone,
    capacity,
    case,
    figures,
    stretch,
    unsteady,
    unsteady_case,
)
from bench.flood import flood, held
from bench.ground import OURS, Ground, ground
from bench.load import median
from bench.mix import KINDS, SMALL
from bench.pledges import refusals, reuse, tenants
from bench.policies import COUNT_BASED
from bench.report import at_least, at_most, report
from bench.storm import preferred

ROUNDS = 5
LOADS = (0.5, 1.0, 2.0, 4.0)
# The others' figures without an overload only draw the chart: one round is enough for that, and a trial has none.
_CALM = 1.0
FLOOD_S = 20.0
_PROFILES = {"pulse": PULSE, "step": STEP}
# In a trial: ours, and the one that shows what no control is.
_TRIED = (OURS, "fifo")


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures everything, about ten minutes. Raises CannotInstall where no Triton can run."""
    with ground() as on:
        with preferred() as is_preferred:
            costs = alone(on)
            cases = _alone_cases(costs)
            contested, full = _contest(on, costs, rounds)
            cases += [_capacity_case(full), *contested]
            cases += _changing(on, full[-1], is_trial=rounds == 1)
            cases += [tenants(on), refusals(on, costs), *reuse(on)]
        cases.append(flood(on.triton, FLOOD_S / 4 if rounds == 1 else FLOOD_S))
    return {
        **report("overload", cases, targets(cases)),
        "load": {
            "mix": {kind.name: {"percent": kind.percent, "deadline_s": kind.deadline_s} for kind in KINDS},
            "preferred": is_preferred,
            "seeds": rounds,
        },
    }


def _alone_cases(costs: Mapping[str, Alone]) -> list[dict[str, Any]]:
    least = costs[SMALL.name].cpu_ms
    return [
        {
            "case": f"{name}, alone",
            "kind": "alone",
            "name": name,
            "cpu_ms": round(each.cpu_ms, 3),
            "work_ms": round(each.work_ms, 3),
            "times_the_smallest": round(each.cpu_ms / least, 1),
            "p50_ms": round(each.p50_s * 1e3, 3),
        }
        for name, each in costs.items()
    ]


def _capacity_case(full: Sequence[Capacity]) -> dict[str, Any]:
    return {
        "case": "capacity: the mix in a closed loop, all let in",
        "kind": "capacity",
        "calls_per_s": round(median([each.calls for each in full]), 1),
        "work_cores": round(median([each.work for each in full]), 3),
        "others_cores": round(median([each.others for each in full]), 3),
    }


def _contest(
    on: Ground, costs: Mapping[str, Alone], rounds: int
) -> tuple[list[dict[str, Any]], list[Capacity]]:
    """Every policy at every load: cases, and the capacity that each round found."""
    found: defaultdict[tuple[str, float], list[tuple[Stretch, Figures]]] = defaultdict(list)
    full = []
    for seed in range(rounds):
        full.append(capacity(on, costs, seed))
        turns = list(product(on.servers, LOADS))
        for policy, load in reversed(turns) if seed % 2 else turns:
            if policy != OURS and load <= _CALM and (seed or rounds == 1):
                continue
            one = stretch(on, policy, load * full[-1].calls, seed)
            found[policy, load].append((one, figures(one, costs, full[-1], len(on.cores))))
    cases = [
        case(policy, load, [one for one, _ in each], [told for _, told in each])
        for (policy, load), each in sorted(found.items(), key=lambda item: list(on.servers).index(item[0][0]))
    ]
    return cases, full


def _changing(on: Ground, full: Capacity, *, is_trial: bool) -> list[dict[str, Any]]:
    """Loads that change, from callers who retry."""
    return [
        unsteady_case(name, policy, profile, unsteady(on, policy, profile, full))
        for name, profile in (_PROFILES if not is_trial else {"pulse": PULSE}).items()
        for policy in (on.servers if not is_trial else _TRIED)
    ]


def targets(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the cases must reach."""
    contest = {(one["policy"], one["load"]): one for one in cases if one["kind"] == "contest"}
    small = next(one for one in cases if one["kind"] == "alone" and one["name"] == SMALL.name)
    by_kind = {one["kind"]: one for one in cases}
    twice, four = contest[OURS, 2.0], contest[OURS, 4.0]
    told = []
    for one, load, work, met in ((twice, 2, 0.95, 0.90), (four, 4, 0.88, 0.65)):
        best = max(contest[policy, float(load)]["met"] for policy in COUNT_BASED)
        told += [
            at_least(f"work in deadline ÷ capacity left, at {load} x", one["goodput_of_cores_left"], work),
            at_least(f"requests in deadline, at {load} x", one["met"], met),
            at_least(
                f"requests in deadline ÷ the best count-based policy's, at {load} x",
                round(one["met"] / best, 3) if best else 0.0,
                2,
            ),
        ]
    tenant, refusal = by_kind["tenants"], by_kind["refusals"]
    waited = round(twice["small_p99_ms"] / small["p50_ms"], 2)
    return [
        *told,
        at_most("p99 of icons at 2 x ÷ the median time of one alone", waited, 10),
        at_most("two tenants' widest gap in CPU time ÷ the largest job", tenant["gap_over_largest"], 2),
        at_most("front CPU of a refused 1080p request, µs", refusal["front_cpu_us"], 300),
        at_most("p99 from due to refused at 4 x, ms", four["refused_p99_ms"] or 0.0, 5),
        at_least("flood of 12 MP under 1 GiB: held, nothing lost", float(held(by_kind["flood"])), 1),
        *[
            at_most(f"{one['case']}, CPU", one["hit_over_miss"] if one["kept"] == 1 else 1.0, 0.1)
            for one in cases
            if one["kind"] == "reuse"
        ],
        at_most(
            "times that 64 identical concurrent requests were worked off",
            float(by_kind["together"]["made"]),
            1,
        ),
    ]
