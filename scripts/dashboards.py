"""Writes the chart's Grafana dashboard from the table below; --check only compares.

The JSON is Grafana's own model, built by its typed SDK, so that what it does not have cannot be written; the table is
what a person changes. Queries need none of the recording rules, so that the dashboard works without them. Each is
checked against what a running server exports (`make alerts-test`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

FILE: Final = (
    Path(__file__).parents[1] / "helm" / "multimodal-sidecar" / "dashboards" / "multimodal-sidecar.json"
)
_HEIGHT: Final = 8
_LOW: Final = 4
_WIDTH: Final = 24

# Where there is no Kubernetes there are no such labels, which "All" allows for: its pattern takes the empty one too.
POD: Final = 'namespace=~"$namespace",pod=~"$pod"'
UP: Final = f'{POD},upstream=~"$upstream"'
MODEL: Final = f'{POD},model=~"$model"'
RATE: Final = "[$__rate_interval]"
_STATES: Final = "sidecar_accelerator_state_seconds_total"
_STAGES: Final = "sidecar_stage_duration_seconds"
_CALLS: Final = "sidecar_call_duration_seconds"
_UNSTARVED: Final = f'sum(rate({_STATES}{{{UP},state!="idle_demand"}}{RATE}))'


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: queries with their legends, a unit of Grafana's; `kind` says how it is drawn: lines, stack, or number.

    `marks` are values from which a number is yellow, and red; `most` is where its axis ends.
    """

    title: str
    says: str
    unit: str
    queries: Mapping[str, str]
    kind: str = "lines"
    width: int = 8
    marks: tuple[float, float] | None = None
    most: float | None = None


def quantile(part: float, metric: str, by: str, where: str = POD) -> str:
    """A histogram's quantile by a label."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({part}, sum by ({labels}) (rate({metric}_bucket{{{where}}}{RATE})))"


def rate(metric: str, by: str, where: str = POD) -> str:
    """A counter's rate, summed by labels."""
    return (
        f"sum by ({by}) (rate({metric}{{{where}}}{RATE}))" if by else f"sum(rate({metric}{{{where}}}{RATE}))"
    )


def total(metric: str, by: str = "", where: str = POD) -> str:
    """A gauge's sum by labels."""
    return f"sum by ({by}) ({metric}{{{where}}})" if by else f"sum({metric}{{{where}}})"


ROWS: Final[Mapping[str, Sequence[Panel]]] = {
    "Now": (
        Panel(
            "Starved",
            "The part of the last ten seconds in which an accelerator had nothing to do while requests for it were in "
            "preprocessing; of the worst. 5 % is moderate, 20 % severe.",
            "percentunit",
            {f"max(sidecar_starvation_ratio{{{UP}}})": "worst"},
            kind="number",
            width=4,
            marks=(0.05, 0.2),
        ),
        Panel(
            "Accelerator in use",
            "Busy time by the time in which somebody asked for it. 95 % is good.",
            "percentunit",
            {f'sum(rate({_STATES}{{{UP},state="busy"}}{RATE})) / {_UNSTARVED}': "in use"},
            kind="number",
            width=4,
        ),
        Panel(
            "Not ready",
            "Sidecars that are not ready. Draining ones are among them.",
            "short",
            {f"count(sidecar_ready{{{POD}}}) - sum(sidecar_ready{{{POD}}})": "sidecars"},
            kind="number",
            width=4,
            marks=(1, 2),
        ),
        Panel(
            "Models not ready",
            "Models that cannot be asked: not found at the model server, or unlike their recipes.",
            "short",
            {f"count(sidecar_model_ready{{{MODEL}}}) - sum(sidecar_model_ready{{{MODEL}}})": "models"},
            kind="number",
            width=4,
            marks=(1, 1),
        ),
        Panel(
            "Refused",
            "Calls that were refused for want of capacity, of all calls.",
            "percentunit",
            {
                f"sum(rate(sidecar_gate_refused_calls_total{{{POD}}}{RATE}))"
                f" / sum(rate(sidecar_calls_total{{{POD}}}{RATE}))": "refused"
            },
            kind="number",
            width=4,
            marks=(0.01, 0.05),
        ),
        Panel(
            "Work that waits",
            "Seconds until a sidecar has worked off its queue, if nothing else comes; of the longest.",
            "s",
            {
                f"max(sum without (modality, cost_class) (sidecar_lane_queued_cpu_seconds{{{POD}}})"
                f" / sidecar_budget_cores{{{POD}}})": "longest"
            },
            kind="number",
            width=4,
            marks=(1, 2),
        ),
    ),
    "What the accelerator waited for": (
        Panel(
            "States",
            "Every instant is in exactly one state. idle_prep is starvation: requests are in preprocessing, and there "
            "is nothing else to do. idle_xfer waits for tensors on their way, idle_batch for a batch to fill, "
            "idle_demand for callers; hung has work and does none of it. Mean over the chosen models and pods.",
            "percentunit",
            {f"avg by (state) (rate({_STATES}{{{UP}}}{RATE}))": "{{state}}"},
            kind="stack",
            width=12,
            most=1,
        ),
        Panel(
            "Starved, by cause",
            "What starved time was for: the stage that the next request to be handed over was at, or a CPU quota "
            "(throttled). The advice is what `sidecar doctor` says.",
            "percentunit",
            {
                f"sum by (cause, modality) (rate(sidecar_starved_seconds_total{{{UP}}}{RATE}))"
                f" / scalar(count(sidecar_starvation_ratio{{{UP}}}))": "{{cause}} ({{modality}})"
            },
            kind="stack",
            width=12,
        ),
        Panel(
            "Starved, by model and pod",
            "The starved part of the verdict's window.",
            "percentunit",
            {f"sidecar_starvation_ratio{{{UP}}}": "{{upstream}} {{pod}}"},
            most=1,
        ),
        Panel(
            "Alarm",
            "1 while the sidecar's own alarm rings, from which the alert is made.",
            "short",
            {f"sidecar_starvation_alarm{{{UP}}}": "{{upstream}} {{pod}}"},
            most=1,
        ),
        Panel(
            "Room in executions",
            "Partial starvation: the part of the time that executions ran with room for rows which were still in "
            "preprocessing.",
            "percentunit",
            {f"avg by (upstream) (rate(sidecar_underfilled_seconds_total{{{UP}}}{RATE}))": "{{upstream}}"},
        ),
    ),
    "Stages": (
        Panel(
            "Time in each stage, 95th percentile",
            "Of an item from probe to pack, of a call in receive, deliver and respond; deliver "
            "includes the model's own time.",
            "s",
            {quantile(0.95, _STAGES, "stage", MODEL): "{{stage}}"},
            width=12,
        ),
        Panel(
            "Time in each stage, mean",
            "Stacked: about what an answer is made of.",
            "s",
            {
                f"{rate(f'{_STAGES}_sum', 'stage', MODEL)} / {rate(f'{_STAGES}_count', 'stage', MODEL)}": "{{stage}}"
            },
            kind="stack",
            width=12,
        ),
        Panel(
            "Time of a call",
            "From its arrival to its end, by method.",
            "s",
            {
                quantile(0.5, _CALLS, "method"): "{{method}} median",
                quantile(0.99, _CALLS, "method"): "{{method}} p99",
            },
        ),
        Panel(
            "Items by how they ended",
            "OK, or an error's reason (docs/errors.md).",
            "ops",
            {rate("sidecar_items_total", "model, reason", MODEL): "{{model}} {{reason}}"},
        ),
        Panel(
            "CPU time of an item",
            "Of decode, transform and pack, by model: what `sidecar plan --for` plans by.",
            "s",
            {
                f"{rate('sidecar_worker_cpu_seconds_total', 'model', MODEL)}"
                f" / {rate('sidecar_items_total', 'model', MODEL)}": "{{model}}"
            },
        ),
        Panel(
            "Time that no stage accounts for, 99th percentile",
            "Stages and this add up to the whole, exactly. Much of it means a front that is late.",
            "s",
            {quantile(0.99, "sidecar_gap_duration_seconds", "model", MODEL): "{{model}}"},
        ),
        Panel(
            "Calls by how they ended",
            "UPSTREAM_* is the model server's fault, INTERNAL_ERROR the sidecar's, OVERLOADED and "
            "UNAFFORDABLE are refusals.",
            "ops",
            {rate("sidecar_calls_total", "reason"): "{{reason}}"},
        ),
        Panel(
            "Calls under way",
            "Accepted and not ended, and whether a pod drains.",
            "short",
            {
                total("sidecar_calls_under_way", "pod"): "{{pod}}",
                total("sidecar_draining", "pod"): "{{pod}} drains",
            },
        ),
    ),
    "Admission": (
        Panel(
            "Work that waits, by cost class",
            "CPU time that the queue will take: what replicas are scaled by. Class 0 is up to 4 ms, then up to 16, 64, "
            "256, and more.",
            "s",
            {
                total(
                    "sidecar_lane_queued_cpu_seconds", "modality, cost_class"
                ): "{{modality}} class {{cost_class}}"
            },
            kind="stack",
        ),
        Panel(
            "Items that wait",
            "By modality, and by cost class.",
            "short",
            {
                total("sidecar_gate_queued_items", "modality"): "{{modality}}",
                total(
                    "sidecar_lane_queued_items", "modality, cost_class"
                ): "{{modality}} class {{cost_class}}",
            },
        ),
        Panel(
            "Let in, dropped, refused",
            "Dropped at their turn, for their deadline cannot be met any more; refused at the door.",
            "ops",
            {
                rate("sidecar_gate_admitted_items_total", "modality"): "{{modality}} let in",
                rate("sidecar_gate_dropped_items_total", "modality"): "{{modality}} dropped",
                rate("sidecar_gate_refused_calls_total", "modality"): "{{modality}} calls refused",
            },
        ),
        Panel(
            "Turns, by cost class",
            "Items whose turn came.",
            "ops",
            {
                rate(
                    "sidecar_lane_begun_items_total", "modality, cost_class"
                ): "{{modality}} class {{cost_class}}"
            },
            kind="stack",
        ),
        Panel(
            "At the model server",
            "Items handed over and not answered, and how many may be: where the two meet, it is the limit.",
            "short",
            {
                total("sidecar_upstream_items", "model", MODEL): "{{model}}",
                total("sidecar_upstream_depth", "model", MODEL): "{{model}} at most",
            },
        ),
        Panel(
            "What predictions go by",
            "Cores' worth of work that is done when there is enough of it, and how many times as long as in the table "
            "a job takes here.",
            "short",
            {
                total("sidecar_gate_rate", "pod"): "{{pod}} cores",
                total("sidecar_cost_machine_factor", "pod"): "{{pod}} machine factor",
            },
        ),
    ),
    "Workers and CPU": (
        Panel(
            "CPU in use",
            "Workers' on items, the front's own, and what the containers may use.",
            "short",
            {
                rate("sidecar_worker_cpu_seconds_total", ""): "workers",
                rate("sidecar_front_cpu_seconds_total", ""): "front",
                total("sidecar_budget_cores"): "budget",
            },
        ),
        Panel(
            "Stopped by the CPU quota",
            "Seconds a second for which threads were kept waiting, summed over CPUs.",
            "short",
            {rate("sidecar_throttled_seconds_total", "pod"): "{{pod}}"},
        ),
        Panel(
            "Threads and processes of the plan",
            "By pool, and how many worker processes are alive; 1 for each layer of the sandbox that all are in.",
            "short",
            {
                total("sidecar_plan_threads", "pool"): "{{pool}} threads",
                total("sidecar_plan_processes"): "processes planned",
                total("sidecar_workers_processes"): "processes alive (with those for small items)",
                f"min by (layer) (sidecar_sandbox_layer{{{POD}}})": "sandbox: {{layer}}",
            },
        ),
        Panel(
            "Items with a worker",
            "By modality; with as many as threads, all are in use.",
            "short",
            {total("sidecar_gate_running_items", "modality"): "{{modality}}"},
        ),
        Panel(
            "What happened to workers",
            "In a quarter of an hour: processes that ended, jobs that overran their lease, were run "
            "again, were refused after two deaths.",
            "short",
            {
                f"sum(increase(sidecar_workers_deaths_total{{{POD}}}[15m]))": "deaths",
                f"sum(increase(sidecar_workers_hangs_total{{{POD}}}[15m]))": "hangs",
                f"sum(increase(sidecar_workers_reruns_total{{{POD}}}[15m]))": "reruns",
                f"sum(increase(sidecar_workers_poisoned_total{{{POD}}}[15m]))": "poisoned",
                f"sum(increase(sidecar_workers_escapes_total{{{POD}}}[15m]))": "ended by a forbidden call",
                total("sidecar_workers_quarantined"): "contents in quarantine",
            },
        ),
        Panel(
            "Jobs",
            "That ended, and of them those whose caller had gone; changes of the plan in a quarter of "
            "an hour.",
            "ops",
            {
                rate("sidecar_workers_finished_jobs_total", "modality"): "{{modality}}",
                rate("sidecar_workers_abandoned_jobs_total", "modality"): "{{modality}} abandoned",
                f"sum(increase(sidecar_plan_changes_total{{{POD}}}[15m]))": "changes of the plan",
            },
        ),
    ),
    "Hand-over and memory": (
        Panel(
            "Tensors to the model server",
            "Told by their place in shared memory, or copied into messages.",
            "Bps",
            {
                rate("sidecar_handover_shared_bytes_total", ""): "shared",
                rate("sidecar_handover_copied_bytes_total", ""): "copied",
            },
            kind="stack",
        ),
        Panel(
            "The way that tensors take",
            "1 where shared memory is used; 0 beside a wanted 1 is a fall back to copying.",
            "short",
            {
                total("sidecar_handover_shared_memory", "pod"): "{{pod}} shared",
                total("sidecar_handover_wanted", "pod"): "{{pod}} wanted",
            },
        ),
        Panel(
            "Loose ends at the model server",
            "Calls that run on without their callers, slots whose end is not known, registrations and "
            "expired leases in a quarter of an hour.",
            "short",
            {
                total("sidecar_handover_detached_calls"): "detached calls",
                total("sidecar_handover_limbo_slots"): "slots in limbo",
                f"sum(increase(sidecar_handover_registrations_total{{{POD}}}[15m]))": "registrations",
                f"sum(increase(sidecar_arena_expired_leases_total{{{POD}}}[15m]))": "expired leases",
            },
        ),
        Panel(
            "The arena",
            "Shared memory for slots, what is leased, and what of it results kept for later take, "
            "which give way.",
            "bytes",
            {
                total("sidecar_arena_bytes"): "size",
                total("sidecar_arena_leased_bytes"): "leased",
                total("sidecar_cache_bytes"): "kept results",
            },
        ),
        Panel(
            "What was not done twice",
            "Items given a kept result, or another call's work; calls given a stored reply.",
            "ops",
            {
                rate("sidecar_cache_hits_total", ""): "kept results",
                rate("sidecar_cache_misses_total", ""): "made",
                rate("sidecar_flights_shared_total", ""): "shared work",
                rate("sidecar_replays_replayed_total", ""): "replies replayed",
                rate("sidecar_cache_saved_cpu_seconds_total", ""): "cores saved",
            },
        ),
        Panel(
            "What is kept",
            "Results and replies, items that wait for another call's work, and results a second that "
            "gave way: to others, to work.",
            "short",
            {
                total("sidecar_cache_entries"): "results",
                total("sidecar_replays_entries"): "replies",
                total("sidecar_flights_following"): "followers",
                rate("sidecar_cache_evicted_total", ""): "evicted",
                rate("sidecar_cache_yielded_total", ""): "yielded",
            },
        ),
        Panel(
            "Memory that the containers may use",
            "The least of what the machine has and what its control groups allow, by pod.",
            "bytes",
            {total("sidecar_budget_memory_bytes", "pod"): "{{pod}}"},
        ),
        Panel(
            "Settings",
            "Sidecars that stay by old ones because the new ones are wrong, keys that wait for a restart, and how "
            "often settings were read anew in a quarter of an hour.",
            "short",
            {
                total("sidecar_settings_refused"): "refused",
                f"max(sidecar_settings_restart{{{POD}}})": "keys that wait",
                f"sum by (outcome) (increase(sidecar_settings_reloads_total{{{POD}}}[15m]))": "read anew: {{outcome}}",
            },
        ),
        Panel(
            "What watching costs",
            "Cores, turns a second, and calls of which no span or line was made.",
            "short",
            {
                rate("sidecar_watch_cpu_seconds_total", ""): "cores",
                rate("sidecar_watch_turns_total", ""): "turns",
                rate("sidecar_journal_dropped_calls_total", ""): "dropped calls",
            },
        ),
    ),
}

_SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def board() -> str:
    """The dashboard as JSON."""
    made = (
        dashboard.Dashboard("Multimodal sidecar")
        .uid("multimodal-sidecar")
        .description(
            "Is the accelerator kept waiting by preprocessing, by which stage, and what takes the time."
        )
        .tags(["multimodal-sidecar"])
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, label, asks in (
        ("namespace", "Namespace", "label_values(sidecar_ready, namespace)"),
        ("pod", "Pod", 'label_values(sidecar_ready{namespace=~"$namespace"}, pod)'),
        ("upstream", "Model at the model server", f"label_values(sidecar_model_ready{{{POD}}}, upstream)"),
        ("model", "Model", f"label_values(sidecar_model_ready{{{POD}}}, model)"),
    ):
        made.with_variable(_variable(name, label, asks))
    number = 0
    for row, panels in ROWS.items():
        number += 1
        made.with_row(dashboard.Row(row).id(number))
        for panel in panels:
            number += 1
            made.with_panel(_number(panel, number) if panel.kind == "number" else _chart(panel, number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(name: str, label: str, asks: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query({"query": asks, "refId": name})
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


def _targets(panel: Panel) -> list[Any]:
    return [
        prometheus.Dataquery()
        .expr(expression)
        .legend_format(legend)
        .ref_id(chr(ord("A") + place))
        .datasource(_SOURCE)
        for place, (expression, legend) in enumerate(panel.queries.items())
    ]


def _number(panel: Panel, number: int) -> stat.Panel:
    made = (
        stat.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.says)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .targets(_targets(panel))
        .height(_LOW)
        .span(panel.width)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if panel.marks:
        yellow, red = panel.marks
        steps = [
            model.Threshold(value=None, color="green"),
            model.Threshold(value=yellow, color="yellow"),
            model.Threshold(value=red, color="red"),
        ]
        made.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    return made


def _chart(panel: Panel, number: int) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.says)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .targets(_targets(panel))
        .height(_HEIGHT)
        .span(panel.width)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            look.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(
            look.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if panel.most is not None:
        made.max(panel.most)
    if panel.kind == "stack":
        made.stacking(look.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(40)
    return made


def main() -> int:
    """Writes it; with --check returns 1 where it is stale."""
    wanted = board()
    if "--check" in sys.argv:
        if not FILE.exists() or FILE.read_text() != wanted:
            print(f"{FILE.name} is stale: run python scripts/dashboards.py")
            return 1
        return 0
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
