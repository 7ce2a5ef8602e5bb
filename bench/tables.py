"""The benchmarks' results as tables and a chart for the docs. Pure: a result's object in, text out.

Figures are never written by hand: `scripts/figures.py` puts these between their marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.chart import Group, bars

Result = Mapping[str, Any]
OURS = "this sidecar"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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
        for each in _of(result, "serving")
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
        for each in _of(result, "latency")
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
        for each in _of(result, "scaling")
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
        for each in _of(result, "handover")
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
        for each in _of(result, "trial")
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
}
"""By mark: the result that it is made from, and how."""


def _of(result: Result, kind: str) -> list[dict[str, Any]]:
    return [case for case in result["cases"] if case["kind"] == kind]


def _by_name(result: Result, kind: str, mode: str) -> dict[str, dict[str, Any]]:
    return {case["contender"]: case for case in _of(result, kind) if case["mode"] == mode}


def _times(of: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """By how much ours does more for a CPU-second; nothing for ours itself."""
    if name == OURS:
        return ""
    return f"{of[OURS]['images_per_cpu_s'] / of[name]['images_per_cpu_s']:.2f}"


def _where(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("pillow", "numpy", "grpcio") if name in versions
    )
    return (
        f"On {machine['cores']} cores of an {machine['cpu'].replace('(R)', '')}; Python {versions['python']}, "
        f"{named}; medians of five alternating rounds. `make bench` measures anew."
    )
