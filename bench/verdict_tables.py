"""The verdict benchmark's result as the docs show it: tables, and a picture of told beside true. Reads results only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.chart import Spot, scatter
from bench.load import median, percentile
from bench.markdown import Result, of_kind, table


def short(result: Result) -> str:
    """What matters, in a few rows."""
    found = {each["target"]: each["figure"] for each in result["targets"]}
    errors = [abs(case["starved"] - case["true_starved"]) for case in _episodes(result) if case["shares"]]
    foretold = found["foretold throughput beside measured, p95 of the error"]
    rows = {
        "cause named rightly, macro-F1": f"**{found['macro-F1 of the cause']:.3f}**",
        "starved share, distance from the truth: median, nine of ten": f"{100 * median(errors):.1f}, "
        f"{100 * percentile(errors, 90):.1f} points",
        "from onset to alarm, p99": f"{found['p99 from onset to alarm, s']:.1f} s",
        "throughput foretold for one thread more, p95 of the error": f"{foretold:.1%}",
    }
    lines = [f"| over {len(_episodes(result))} episodes with known truth | |", "| --- | --- |"]
    lines += [f"| {name} | {figure} |" for name, figure in rows.items()]
    return "\n".join(lines)


def target_lines(result: Result) -> list[str]:
    """What had to be reached, and what was: a table's lines."""
    lines = ["| target | bound | found | reached |", "| --- | --- | --- | --- |"]
    for each in result["targets"]:
        reached = "yes" if each["holds"] else "**no**"
        lines.append(f"| {each['target']} | {each['bound']} | {each['figure']:g} | {reached} |")
    return lines


def targets(result: Result) -> str:
    """The same, and on what it was found."""
    machine, stage = result["machine"], result["stage"]
    where = (
        f"On {machine['cores']} cores of an {machine['cpu']}; a {stage['accelerator']} accelerator, quotas by "
        f"{stage['quota']}. `make bench` measures anew."
    )
    return "\n".join([*target_lines(result), "", where])


def confusion(result: Result) -> str:
    """How often each cause was found to be what; a row what was injected."""
    rows = result["confusion"]
    names = sorted({name for found in rows.values() for name in found} | rows.keys())
    lines = ["| injected | " + " | ".join(names) + " | F1 |", "| --- |" + " --- |" * (len(names) + 1)]
    for label, found in rows.items():
        counts = " | ".join(
            f"**{found[name]}**" if name == label and name in found else str(found.get(name, ""))
            for name in names
        )
        lines.append(f"| {label} | {counts} | {result['f1'][label]:.2f} |")
    return "\n".join(lines)


def shares(result: Result) -> str:
    """Told beside true, by tenths of the true share."""
    by_level: dict[float, list[float]] = {}
    for case in _episodes(result):
        if case["shares"]:
            level = round(case["true_starved"], 1)
            by_level.setdefault(level, []).append(100 * (case["starved"] - case["true_starved"]))
    lines = [
        "| true share | episodes | mean error, points | median of its size | nine of ten within |",
        "| --- | --- | --- | --- | --- |",
    ]
    for level, errors in sorted(by_level.items()):
        sizes = [abs(error) for error in errors]
        lines.append(
            f"| {level:.0%} | {len(errors)} | {sum(errors) / len(errors):+.1f} | {median(sizes):.1f} | "
            f"{percentile(sizes, 90):.1f} |"
        )
    return "\n".join(lines)


def alarms(result: Result) -> str:
    """How soon the alarm rang, by what was injected."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for case in _episodes(result):
        by_kind.setdefault(case["kind"], []).append(case)
    lines = ["| injected | episodes | rang | median, s | latest, s |", "| --- | --- | --- | --- | --- |"]
    for kind, cases in by_kind.items():
        rung = [case["alarm_s"] for case in cases if case["alarm_s"] is not None]
        times = f"{median(rung):.1f} | {max(rung):.1f}" if rung else "– | –"
        lines.append(f"| {kind} | {len(cases)} | {sum(case['rang'] for case in cases)} | {times} |")
    return "\n".join(lines)


def what_if(result: Result) -> str:
    """Foretold beside measured, medians of rounds."""
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for case in result["cases"]:
        if case["kind"] == "what if":
            by_case.setdefault(case["case"], []).append(case)
    lines = ["| change | before, 1/s | foretold | measured | error |", "| --- | --- | --- | --- | --- |"]
    for name, cases in by_case.items():
        found = [
            median([case[key] for case in cases])
            for key in ("calls_per_s", "foretold_per_s", "measured_per_s")
        ]
        error = median([case["error"] for case in cases])
        lines.append(f"| {name} | {found[0]:.0f} | {found[1]:.0f} | {found[2]:.0f} | {error:.1%} |")
    return "\n".join(lines)


def overhead(result: Result) -> str:
    """What watching costs."""
    head = ("pictures", "front, CPU µs a call", "with watching", "counted by itself", "throughput lost")
    rows = [
        (
            case["case"].rpartition(" ")[2],
            f"{case['front_us']:.0f}",
            f"{case['more_cpu_us']:+.0f} ± {case['error_us']:.0f}",
            f"{case['own_cpu_us']:.0f}",
            f"{case['lost_throughput']:+.1%} ± {case['error_throughput']:.1%}",
        )
        for case in of_kind(result, "overhead")
    ]
    return table(head, rows)


def chart(result: Result) -> str:
    """Told over true, a spot an episode: SVG."""
    kinds = list(dict.fromkeys(case["kind"] for case in _episodes(result) if case["shares"]))
    spots = [
        Spot(100 * case["true_starved"], 100 * case["starved"], kinds.index(case["kind"]))
        for case in _episodes(result)
        if case["shares"]
    ]
    return scatter(
        "Starved share: what the sidecar told, over what was true", kinds, spots, "true, %", "told, %"
    )


def _episodes(result: Result) -> Sequence[Mapping[str, Any]]:
    return [case for case in result["cases"] if "label" in case]
