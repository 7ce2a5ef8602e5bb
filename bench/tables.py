"""The benchmarks' results as tables and charts for the docs. Pure: a result's object in, text out.

Figures are never written by hand: `scripts/figures.py` puts these between their marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench import (
    alerts_tables,
    drop_in_tables,
    hostile_tables,
    image_tables,
    plan_tables,
    sandbox_tables,
    verdict_tables,
)
from bench.chart import Group, Panel, bars, curves
from bench.markdown import Result, of_kind, table

OURS = "this sidecar"

# The Pillow of a plain install, beside which the recipes' tables show ours.
_PILLOW = "Pillow wheel"
_EXACT = f"exact, {_PILLOW}"
_NONE = "–"
_NUMBERS = {4: "four", 5: "five", 7: "seven", 9: "nine"}


def serving(result: Result) -> str:
    """What serving costs, beside the bare work."""
    head = ("case", "bare", "workers", "front", "served", "efficiency", "processes ÷ threads", "images/s")
    rows = [
        (
            each["case"],
            f"{each['bare_cpu_ms']:.2f}",
            f"{each['workers_cpu_ms']:.2f}",
            f"{each['front_cpu_ms']:.2f}",
            f"{each['served_cpu_ms']:.2f}",
            f"**{each['efficiency']:.2f}**",
            f"{each['processes_over_threads']:.2f}",
            f"{each['images_per_s']:.0f}",
        )
        for each in of_kind(result, "serving")
    ]
    return table(head, rows)


def latency(result: Result) -> str:
    """Latencies at a load that the server can bear."""
    head = ("case", "offered/s", "p50 ms", "p99 ms", "sent late by, p99 ms")
    rows = [
        (
            each["case"],
            f"{each['offered_per_s']:.0f}",
            f"{each['p50_ms']:.1f}",
            f"{each['p99_ms']:.1f}",
            f"{each['lag_p99_ms']:.2f}",
        )
        for each in of_kind(result, "latency")
    ]
    return table(head, rows)


def scaling(result: Result) -> str:
    """Two workers against one."""
    head = ("case", "one, images/s", "two, images/s", "ratio", "by core-seconds left to the server")
    rows = [
        (
            each["case"],
            f"{each['one_per_s']:.0f}",
            f"{each['two_per_s']:.0f}",
            f"{each['plain_scaling']:.2f}",
            f"**{each['scaling']:.2f}**",
        )
        for each in of_kind(result, "scaling")
        if "scaling" in each
    ]
    return table(head, rows)


def handover(result: Result) -> str:
    """What it takes to hand a tensor to Triton."""
    head = ("tensor", "bytes over gRPC, µs", "shared memory, µs", "ratio")
    rows = [
        (
            each["payload"],
            f"{each['raw_us']:.0f}",
            f"{each['shared_us']:.0f}",
            f"**{each['raw_over_shared']:.0f}**",
        )
        for each in of_kind(result, "handover")
    ]
    return table(head, rows)


def peers(result: Result) -> str:
    """Ours beside the peers, and by how much."""
    head = (
        "",
        "images per CPU-s",
        "ours ÷ it",
        "scaled decode",
        "ours ÷ it",
        "images/s",
        "p50 / p99 ms, common load",
        "p50 / p99 ms, 70 % of its own",
    )
    exact, scaled = _by_name(result, "contender", "exact"), _by_name(result, "contender", "scaled")
    rows = []
    for name, each in exact.items():
        rows.append(
            (
                f"**{name}**, {each['variant']}" if name == OURS else f"{name}, {each['variant']}",
                f"{each['images_per_cpu_s']:.0f}",
                _times(exact, name),
                f"{scaled[name]['images_per_cpu_s']:.0f}",
                _times(scaled, name),
                f"{each['images_per_s']:.0f}",
                f"{each['common_p50_ms']:.0f} / {each['common_p99_ms']:.0f}",
                f"{each['own_p50_ms']:.0f} / {each['own_p99_ms']:.0f}",
            )
        )
    common = f"The common load is {result['load']['common_per_s']:.0f} images a second, 70 % of the best peer's rate."
    return f"{table(head, rows)}\n\n{common}"


def peers_short(result: Result) -> str:
    """The same in few columns."""
    exact, scaled = _by_name(result, "contender", "exact"), _by_name(result, "contender", "scaled")
    head = ("1080p JPEG to CLIP 224", "images per CPU-s", "with scaled decode", "p99 ms at the same load")
    rows = []
    for name, each in exact.items():
        ratio, fast = _times(exact, name), _times(scaled, name)
        rows.append(
            (
                f"**{name}**" if name == OURS else name,
                f"{each['images_per_cpu_s']:.0f}" + (f" (ours **{ratio}×**)" if ratio else ""),
                f"{scaled[name]['images_per_cpu_s']:.0f}" + (f" (ours **{fast}×**)" if fast else ""),
                f"{each['common_p99_ms']:.0f}",
            )
        )
    return f"{table(head, rows)}\n\n{_where(result)}"


def variants(result: Result) -> str:
    """The peers' variants, of which the one with the most images a second went on."""
    head = ("variant", "images per CPU-s", "images/s")
    rows = [
        (
            f"{each['contender']}, {each['variant']}",
            f"{each['images_per_cpu_s']:.0f}",
            f"{each['images_per_s']:.0f}",
        )
        for each in of_kind(result, "trial")
    ]
    return table(head, rows)


def simd(result: Result) -> str:
    """The peers with pillow-simd."""
    exact, scaled = _by_name(result, "simd", "exact"), _by_name(result, "simd", "scaled")
    if not exact:
        return "pillow-simd could not be built where these figures were taken."
    ours = [_by_name(result, "contender", mode)[OURS]["images_per_cpu_s"] for mode in ("exact", "scaled")]
    head = ("with pillow-simd", "images per CPU-s", "ours ÷ it", "scaled decode", "ours ÷ it")
    rows = [
        (
            f"{name}, {each['variant']}",
            f"{each['images_per_cpu_s']:.0f}",
            f"{ours[0] / each['images_per_cpu_s']:.2f}",
            f"{scaled[name]['images_per_cpu_s']:.0f}",
            f"{ours[1] / scaled[name]['images_per_cpu_s']:.2f}",
        )
        for name, each in exact.items()
    ]
    return table(head, rows)


def targets(result: Result) -> str:
    """What had to be reached, and what was."""
    rows = [
        (each["target"], each["bound"], f"{each['figure']:g}", "yes" if each["holds"] else "**no**")
        for each in result["targets"]
    ]
    return f"{table(('target', 'bound', 'found', 'reached'), rows)}\n\n{_where(result)}"


def commands(result: Result) -> str:
    """How each contender was started, and the versions that it ran with."""
    rows = []
    for name, each in _by_name(result, "contender", "exact").items():
        found = result["installed"].get(name, result["versions"])
        versions = ", ".join(f"{package} {version}" for package, version in found.items())
        rows.append((name, f"`{each['command']}`", versions))
    return table(("", "started as", "versions"), rows)


def recipes(result: Result) -> str:
    """Ours beside transformers' backends, bytes to tensor."""
    head = (
        "CPU ms a picture",
        "exact",
        "PIL backend",
        "÷ exact",
        "÷ exact, our allocator settings for both",
        "exact as torchvision",
        "torchvision backend",
        "÷ exact",
        "fast",
        "bare decode",
    )
    judge = "torchvision backend"
    rows = [
        (
            each["case"],
            f"**{_ms(each, _EXACT)}**",
            _ms(each, "PIL backend"),
            _over(each, f"PIL backend ÷ {_EXACT}"),
            _over(each, f"PIL backend, our allocator settings ÷ {_EXACT}"),
            _ms(each, f"exact as torchvision, {_PILLOW}"),
            _ms(each, judge),
            _over(each, f"{judge} ÷ {_EXACT}"),
            f"**{_ms(each, f'fast, {_PILLOW}')}**" if f"fast, {_PILLOW}, ms" in each else _NONE,
            _ms(each, "bare decode"),
        )
        for each in of_kind(result, "pictures")
    ]
    sounds = [
        (
            each["case"],
            f"**{_ms(each, f'ours, {_PILLOW}')}**",
            _ms(each, "numpy path"),
            _over(each, f"numpy path ÷ ours, {_PILLOW}"),
            _ms(each, "torch path"),
            _over(each, f"torch path ÷ ours, {_PILLOW}"),
        )
        for each in of_kind(result, "sound")
    ]
    heard = table(("CPU ms a sound", "ours", "numpy path", "÷ ours", "torch path", "÷ ours"), sounds)
    return f"{table(head, rows)}\n\n{heard}\n\n{_where(result)}"


def recipes_short(result: Result) -> str:
    """The same in few columns: how many times faster."""
    head = ("bytes to tensor, CPU ms", "exact", "PIL backend", "torchvision backend", "`fast`")
    rows = [
        (
            each["case"],
            f"**{_ms(each, _EXACT)}**",
            _beside(each, "PIL backend", _EXACT),
            _beside(each, "torchvision backend", _EXACT),
            _ms(each, f"fast, {_PILLOW}"),
        )
        for each in of_kind(result, "pictures")
    ]
    rows += [
        (
            each["case"],
            f"**{_ms(each, f'ours, {_PILLOW}')}**",
            _beside(each, "numpy path", f"ours, {_PILLOW}"),
            _beside(each, "torch path", f"ours, {_PILLOW}"),
            _NONE,
        )
        for each in of_kind(result, "sound")
    ]
    return table(head, rows)


def recipes_families(result: Result) -> str:
    """Every family that has a PIL backend, beside it."""
    rows = [
        (
            each["case"].rpartition(", ")[0],
            _ms(each, "exact"),
            _ms(each, "PIL backend"),
            f"**{each['ratio']:.1f}**",
            "yes" if each["bit_equal"] else "**no**",
        )
        for each in of_kind(result, "family")
    ]
    return table(("JPEG 1920x1080, CPU ms", "exact", "PIL backend", "÷ exact", "bit-equal"), rows)


def recipes_errors(result: Result) -> str:
    """How far fast is from exact, by the picture's size."""
    head = (
        "", "pictures", "that differ", "mean absolute difference, of 255", "median PSNR, dB", "least PSNR, dB"
    )  # fmt: skip
    rows = [
        (
            each["case"].partition(", ")[2],
            str(each["pictures"]),
            str(each["differ"]),
            *(
                (
                    f"{each['mean_absolute_difference']:.2f}",
                    f"{each['psnr_median_db']:.1f}",
                    f"{each['psnr_min_db']:.1f}",
                )
                if each["differ"]
                else ("0", _NONE, _NONE)
            ),
        )
        for each in of_kind(result, "error")
    ]
    return table(head, rows)


def recipes_memory(result: Result) -> str:
    """The most that a picture takes, beside itself and its outputs."""
    rows = [
        (
            each["case"].partition(", ")[2],
            f"{each['decoded_mb']:.1f}",
            f"{each['output_mb']:.1f}",
            f"{each['peak_mb']:.1f}",
            f"**{each['over_mb']:.1f}**",
        )
        for each in of_kind(result, "memory")
    ]
    return table(("MiB", "decoded", "outputs", "peak", "peak above both"), rows)


def chart(result: Result) -> str:
    """Images per CPU-second as bars: SVG."""
    groups = []
    for name in _by_name(result, "contender", "exact"):
        of = [
            _by_name(result, kind, mode).get(name)
            for kind in ("contender", "simd")
            for mode in ("exact", "scaled")
        ]
        groups.append(Group(name, [None if each is None else each["images_per_cpu_s"] for each in of]))
    series = ("exact", "scaled decode", "exact, pillow-simd", "scaled, pillow-simd")
    return bars("Images per CPU-second, 1080p JPEG to CLIP 224 (more is better)", series, groups)


_POLICIES = {
    "ours": "this sidecar",
    "fifo": "FIFO, no control",
    "limit16": "16 at once",
    "codel": "CoDel, 20 ms",
    "gradient2": "Gradient2",
}
"""Policies by the names that the overload benchmark has for them."""


def overload(result: Result) -> str:
    """Every policy in an overload."""
    head = (
        "",
        "load",
        "work in deadline",
        "requests in deadline",
        "icons",
        "1080p",
        "12 MP",
        "audio",
        "icons' p99, ms",
        "refused",
        "refused after, p99 ms",
    )
    rows = []
    for each in of_kind(result, "contest"):
        if each["load"] <= 1:
            continue
        after = each["refused_p99_ms"]
        rows.append(
            (
                f"**{_POLICIES[each['policy']]}**" if each["policy"] == "ours" else _POLICIES[each["policy"]],
                f"{each['load']:g} ×",
                _percent(each["goodput_of_cores_left"]),
                _percent(each["met"]),
                *(_percent(each[f"met_{kind}"]) for kind in ("icon", "1080p", "12 MP", "audio")),
                f"{each['small_p99_ms']:.0f}",
                _percent(each["refused"]),
                "" if after is None else f"{after:.1f}",
            )
        )
    return table(head, rows)


def overload_mix(result: Result) -> str:
    """What is sent, and what it costs."""
    head = ("", "of all, by count", "CPU ms", "times an icon", "alone, p50 ms", "deadline, s")
    mix = result["load"]["mix"]
    rows = [
        (
            each["name"],
            f"{mix[each['name']]['percent']} %",
            f"{each['cpu_ms']:.1f}",
            f"{each['times_the_smallest']:.0f}",
            f"{each['p50_ms']:.1f}",
            f"{mix[each['name']]['deadline_s']:g}",
        )
        for each in of_kind(result, "alone")
    ]
    return table(head, rows)


def overload_changes(result: Result) -> str:
    """Loads that change, from callers who retry."""
    head = ("", "load", "requests in deadline, part by part", "well again after, s")
    rows = [
        (
            _POLICIES[each["policy"]],
            each["case"].partition(", ")[2],
            ", ".join(_percent(each[f"met_{part}"]) for part in range(3) if f"met_{part}" in each),
            "" if each["well_after_s"] is None else f"{each['well_after_s']:g}",
        )
        for each in of_kind(result, "unsteady")
    ]
    return table(head, rows)


def overload_reuse(result: Result) -> str:
    """Hits beside misses."""
    head = ("", "miss, CPU ms", "hit, CPU ms", "hit ÷ miss")
    rows = [
        (
            each["case"].partition(":")[0],
            f"{each['miss_cpu_ms']:.2f}",
            f"{each['hit_cpu_ms']:.2f}",
            f"**{each['hit_over_miss']:.3f}**",
        )
        for each in of_kind(result, "reuse")
    ]
    return table(head, rows)


def overload_chart(result: Result) -> str:
    """Shares in deadline over the load, by requests and by work: SVG."""
    contest = of_kind(result, "contest")
    loads = sorted({each["load"] for each in contest})
    names = list(dict.fromkeys(each["policy"] for each in contest))
    by = {(each["policy"], each["load"]): each for each in contest}

    def panel(label: str, key: str) -> Panel:
        found = [[by.get((name, load), {}).get(key) for load in loads] for name in names]
        return Panel(
            label, [[None if value is None else 100 * value for value in values] for values in found]
        )

    panels = (
        panel("requests answered in their deadlines", "met"),
        panel("capacity spent on them", "goodput_of_cores_left"),
    )
    return curves(
        "What is answered in time when more comes than can be done",
        [_POLICIES[name] for name in names],
        [f"{load:g} ×" for load in loads],
        "load, multiples of capacity",
        panels,
    )


TABLES: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "serving": ("efficiency", serving),
    "latency": ("efficiency", latency),
    "scaling": ("efficiency", scaling),
    "handover": ("efficiency", handover),
    "efficiency_targets": ("efficiency", targets),
    "peers": ("peers", peers),
    "peers_short": ("peers", peers_short),
    "peers_variants": ("peers", variants),
    "peers_simd": ("peers", simd),
    "peers_targets": ("peers", targets),
    "peers_commands": ("peers", commands),
    "overload": ("overload", overload),
    "overload_mix": ("overload", overload_mix),
    "overload_changes": ("overload", overload_changes),
    "overload_reuse": ("overload", overload_reuse),
    "overload_targets": ("overload", targets),
    "verdict_confusion": ("verdict", verdict_tables.confusion),
    "verdict_shares": ("verdict", verdict_tables.shares),
    "verdict_alarms": ("verdict", verdict_tables.alarms),
    "verdict_what_if": ("verdict", verdict_tables.what_if),
    "verdict_overhead": ("verdict", verdict_tables.overhead),
    "verdict_targets": ("verdict", verdict_tables.targets),
    "verdict_short": ("verdict", verdict_tables.short),
    "alerts": ("alerts", alerts_tables.rings),
    "alerts_targets": ("alerts", verdict_tables.targets),
    "alerts_short": ("alerts", alerts_tables.short),
    "plan_sweep": ("plan", plan_tables.sweep),
    "plan_targets": ("plan", plan_tables.targets),
    "tuner_settles": ("tuner", plan_tables.settles),
    "tuner_targets": ("tuner", plan_tables.targets),
    "drop_in_passing": ("drop_in", drop_in_tables.passing),
    "drop_in_calls": ("drop_in", drop_in_tables.calls),
    "drop_in_targets": ("drop_in", plan_tables.targets),
    "sandbox": ("sandbox", sandbox_tables.costs),
    "sandbox_targets": ("sandbox", targets),
    "sandbox_short": ("sandbox", sandbox_tables.short),
    "hostile": ("hostile", hostile_tables.fates),
    "hostile_targets": ("hostile", plan_tables.targets),
    "image": ("image", image_tables.found),
    "recipes": ("recipes", recipes),
    "recipes_short": ("recipes", recipes_short),
    "recipes_families": ("recipes", recipes_families),
    "recipes_errors": ("recipes", recipes_errors),
    "recipes_memory": ("recipes", recipes_memory),
    "recipes_targets": ("recipes", targets),
}
"""By mark: the result that it is made from, and how."""


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _by_name(result: Result, kind: str, mode: str) -> dict[str, dict[str, Any]]:
    return {case["contender"]: case for case in of_kind(result, kind) if case["mode"] == mode}


def _times(of: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """By how much ours does more for a CPU-second; nothing for ours itself."""
    if name == OURS:
        return ""
    return f"{of[OURS]['images_per_cpu_s'] / of[name]['images_per_cpu_s']:.2f}"


def _ms(case: Mapping[str, Any], name: str) -> str:
    """Milliseconds of a contender, where it was measured."""
    found = case.get(f"{name}, ms")
    return _NONE if found is None else f"{found:.1f}"


def _over(case: Mapping[str, Any], ratio: str) -> str:
    """A ratio of times, where it was measured."""
    found = case["ratios"].get(ratio)
    return _NONE if found is None else f"{found:.1f}"


def _beside(case: Mapping[str, Any], judge: str, ours: str) -> str:
    """Milliseconds of a judge, and how many times ours that is."""
    found = case["ratios"].get(f"{judge} ÷ {ours}")
    return _NONE if found is None else f"{_ms(case, judge)} (ours **{found:.1f}×** as fast)"


def _where(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    rounds = next((case["rounds"] for case in result["cases"] if "rounds" in case), 5)
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("pillow", "numpy", "grpcio") if name in versions
    )
    return (
        f"On {machine['cores']} cores of an {machine['cpu'].replace('(R)', '')}; Python {versions['python']}, "
        f"{named}; medians of {_NUMBERS.get(rounds, rounds)} alternating rounds. `make bench` measures anew."
    )
