"""Does the shipped alert ring within half a minute, and is it over afterwards? By a real Prometheus and Triton.

A sidecar under load before an emulated accelerator is scraped as the chart has it, with the chart's own rules. At
first the accelerator is what all wait for, and no alert may fire; then a starvation is let in, one way or another, at a
moment that owes nothing to the scrapes; and then it is taken back. Beside that, every query of the chart's rules and
dashboards is compared with what this server exports, and put to that Prometheus.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.episodes.callers import Noted, call_on
from bench.episodes.plays import LOADS, Troupe
from bench.episodes.prometheus import SCRAPE_S, Prometheus, prometheus
from bench.episodes.stage import NEAR, PICTURES, stage
from bench.processes import free_ports
from bench.queries import CHART, complaints, exported, of_chart
from bench.report import at_least, at_most, report

ROUNDS = 3
ALERT = "MultimodalSidecarStarved"
_MEDIA = "1080p"
# Before a fault: longer than the alert's own `for` and what scrapes and looks add to it. The accelerator then takes so
# many times as long as preprocessing was just measured to, for others on the machine may slow that down meanwhile.
_CALM_S = 25.0
_SLOWER = 10.0
_MOST_S = 60.0
# How often a calm beginning is waited for. Where an alert rings already, nothing can be said of how soon it does.
_TRIES = 3
# What Grafana puts in for its variables where all are chosen.
_OF_GRAFANA = re.compile(r"\$\w+")
# Stands for what never came.
_NEVER_S = 999.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to starve the accelerator: how fast it becomes, by the part of the time for which it then lacks work (below
    nothing: slower than that), and how many cores a quota leaves.
    """

    name: str
    lacks: float
    cores: float | None = None


# Strong ones: others on the machine may make it half as fast, or twice, from one half minute to the next.
FAULTS = (
    Fault("more demand than preprocessing can do, starved by nine tenths", 0.9),
    Fault("more demand than preprocessing can do, starved by two thirds", 0.66),
    Fault("a quota of 0.4 of two cores", -0.5, cores=0.4),
)


def run(rounds: int = ROUNDS, faults: Sequence[Fault] = FAULTS) -> dict[str, Any]:
    """Some minutes. Raises CannotInstall where no Triton or no Prometheus can run."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        on = running.enter_context(stage(Path(folder), **{"metrics.listen": address}))
        rules = sorted((CHART / "rules").glob("*.yaml"))
        watching = running.enter_context(prometheus(address, rules))
        troupe = Troupe(on)
        for _ in range(rounds):
            for fault in faults:
                troupe.measure(_MEDIA)
                cases.append(on.loop.run(_played(troupe, watching, fault)))
        asked = _asked(watching, address)
        told = {"accelerator": on.kind, "quota": on.quota.kind, "scraped_every_s": SCRAPE_S}
    return {**report("alerts", cases, _targets(cases, asked)), "stage": told, "queries": asked}


async def _played(troupe: Troupe, watching: Prometheus, fault: Fault) -> dict[str, Any]:
    """One fault, let in and taken back, while callers go on."""
    over = False
    accelerator, load = troupe.stage.accelerators[PICTURES], LOADS[_MEDIA]
    calm_ms = _SLOWER * 1e3 / troupe.rates[_MEDIA]
    accelerator.take(calm_ms)
    address = troupe.stage.sidecars[NEAR].address
    calls = asyncio.create_task(call_on(address, replace(load), Noted(), lambda: over))
    try:
        false = 0
        for _ in range(_TRIES):
            await watching.until(lambda firing: not _starved(firing), _MOST_S)
            if await watching.until(_starved, _CALM_S) is None:
                break
            false += 1
        if false == _TRIES:
            return {"case": fault.name, "false": false}
        accelerator.take((1 - fault.lacks) * 1e3 / troupe.rates[_MEDIA])
        troupe.stage.allow(fault.cores)
        fired = await watching.until(_starved, _MOST_S)
        # A fault lasts for a while longer, in which the alert may not waver.
        wavered = await watching.until(lambda firing: not _starved(firing), _CALM_S / 2)
        troupe.stage.allow(None)
        accelerator.take(calm_ms)
        cleared = await watching.until(lambda firing: not _starved(firing), _MOST_S)
    finally:
        over = True
        troupe.stage.calm()
        await calls
    return {
        "case": fault.name,
        "fired_s": _NEVER_S if fired is None else round(fired, 1),
        "cleared_s": _NEVER_S if cleared is None else round(cleared, 1),
        "false": false,
        "wavered": int(wavered is not None),
    }


def _starved(firing: set[tuple[str, str]]) -> bool:
    return (ALERT, PICTURES) in firing


def _asked(watching: Prometheus, address: str) -> dict[str, Any]:
    """How the chart's queries fare, at this server and at this Prometheus."""
    queries = of_chart()
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        scrape = exported(answer.read().decode())
    refused, empty = [], []
    for query in queries:
        try:
            found = watching.series(_OF_GRAFANA.sub(".*", query.text))
        except ValueError as error:
            refused.append(f"{query.where}: {error}")
            continue
        if not found and query.where.partition(":")[0].endswith(".json"):
            empty.append(query.where)
    return {"asked": len(queries), "wrong": complaints(queries, scrape), "refused": refused, "empty": empty}


def _targets(cases: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = [each for each in cases if "fired_s" in each]
    never = {"fired_s": _NEVER_S, "cleared_s": _NEVER_S, "wavered": 0}
    return [
        at_least("starvations let in after a calm beginning", len(told), len(cases)),
        at_most(
            "from an injected starvation until its alert fires, the latest, s",
            max(each["fired_s"] for each in told or [never]),
            30,
        ),
        at_most(
            "from its end until the alert is over, the latest, s",
            max(each["cleared_s"] for each in told or [never]),
            30,
        ),
        at_most(
            "alerts of starvation while the accelerator is the limit", sum(each["false"] for each in cases), 0
        ),
        at_most(
            "alerts that were over while the starvation was not", sum(each["wavered"] for each in told), 0
        ),
        at_most("queries on metrics, labels or values that do not exist", len(asked["wrong"]), 0),
        at_most("queries that the real Prometheus refuses", len(asked["refused"]), 0),
        at_most("panels of the dashboards without a series", len(asked["empty"]), 0),
    ]
