"""What the parts tell of themselves, as readings for the metrics: names, words and labels, and nothing else.

Read on the scraper's thread; what a part tells is a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.arena.arena import Arena
from sidecar.catalogue import Catalogue, ModelState
from sidecar.edge.server import Server
from sidecar.following import Following
from sidecar.observe.machine import Machine
from sidecar.observe.metrics import Reading
from sidecar.observe.watcher import Watcher
from sidecar.reuse.replays import Replays
from sidecar.reuse.shared import Shared
from sidecar.stages.admit.cost import CostModel
from sidecar.stages.admit.credits import Credits
from sidecar.stages.admit.gate import Gate
from sidecar.stages.admit.lanes import Lanes
from sidecar.stages.admit.turns import Turns
from sidecar.stages.deliver.triton import TritonUpstream
from sidecar.workers.planner import Planner
from sidecar.workers.pool import Workers


def _told(*rows: tuple[str, str, float, bool], **labels: str) -> Iterator[Reading]:
    """A reading a row: name, words, value, and whether it only grows."""
    return (Reading(name, words, labels, value, counts) for name, words, value, counts in rows)


def work_readings(gate: Gate, workers: Workers, arena: Arena) -> Iterator[Reading]:
    """What gate, workers and arena tell of themselves."""
    yield from _gate_readings(gate, workers)
    crew, slots = workers.crew(), arena.statistics()
    yield from _told(
        ("sidecar_workers_processes", "Worker processes alive.", crew.processes, False),
        ("sidecar_workers_deaths", "Worker processes that ended.", crew.deaths_total, True),
        ("sidecar_workers_hangs", "Jobs that overran their lease.", crew.hangs_total, True),
        ("sidecar_workers_escapes", "Worker processes ended by a forbidden call.", crew.escapes_total, True),
        ("sidecar_workers_reruns", "Jobs run again after a death.", crew.reruns_total, True),
        ("sidecar_workers_poisoned", "Jobs refused after two deaths.", crew.poisoned_total, True),
        ("sidecar_workers_quarantined", "Contents refused at the door now.", crew.quarantined, False),
        ("sidecar_arena_bytes", "Shared memory for slots.", slots.size, False),
        ("sidecar_arena_leased_bytes", "Of it, leased.", slots.leased_bytes, False),
        ("sidecar_arena_expired_leases", "Leases held longer than allowed.", slots.expired_total, True),
    )


def serving_readings(server: Server) -> Iterator[Reading]:
    """Whether calls are taken, and how many are in the house."""
    now = server.statistics()
    yield from _told(
        ("sidecar_ready", "1 while requests can be answered, as health tells it.", now.ready, False),
        ("sidecar_draining", "1 from the signal to stop until the end.", now.draining, False),
        ("sidecar_calls_under_way", "Calls accepted and not ended.", now.under_way, False),
    )


def model_readings(catalogue: Catalogue) -> Iterator[Reading]:
    """A reading a model: whether it was found at the model server, as its recipe needs it."""
    for model in catalogue.all():
        labels = {"model": model.name, "upstream": model.upstream}
        ready = model.state is ModelState.READY
        yield Reading("sidecar_model_ready", "1 while it can be asked.", labels, ready, False)


def settings_readings(following: Following) -> Iterator[Reading]:
    """Whether the settings that there are now are gone by, and how often they were read anew."""
    yield from _told(
        (
            "sidecar_settings_refused",
            "1 while those read last are wrong, and old ones stay.",
            following.refused,
            False,
        ),
        ("sidecar_settings_restart", "Keys that changed and take a restart.", len(following.restart), False),
    )
    words = "Times that the settings were read anew."
    for outcome, count in following.outcomes.items():
        yield Reading("sidecar_settings_reloads", words, {"outcome": outcome}, count, True)


def machine_readings(machine: Machine) -> Iterator[Reading]:
    """CPU time of the front, and what a quota took away, where the kernel tells it."""
    now = machine.look(())
    yield from _told(
        ("sidecar_front_cpu_seconds", "CPU time of the front process.", now.front_ns / 1e9, True)
    )
    if now.throttled_ns is not None:
        words = "Time for which a CPU quota kept threads waiting, summed over CPUs."
        yield from _told(("sidecar_throttled_seconds", words, now.throttled_ns / 1e9, True))


def sandbox_readings(workers: Workers) -> Iterator[Reading]:
    """A reading a layer that is wanted."""
    for layer in workers.crew().sandbox:
        yield Reading(
            "sidecar_sandbox_layer", "1 where workers are in it.", {"layer": layer.name}, layer.applied, False
        )


def plan_readings(planner: Planner) -> Iterator[Reading]:
    """What the container has, and what the plan makes of it."""
    budget, plan = planner.budget, planner.plan
    yield from _told(
        ("sidecar_budget_cores", "Cores that the container may use.", budget.cores, False),
        ("sidecar_budget_memory_bytes", "Memory that the container may use.", budget.memory_bytes, False),
        ("sidecar_plan_processes", "Worker processes of the plan.", plan.processes, False),
        ("sidecar_plan_changes", "Times that the plan was changed while running.", planner.moved, True),
    )
    for pool, threads in (
        ("image", plan.image_threads),
        ("audio", plan.audio_threads),
        ("probe", plan.probe_threads),
        ("express", plan.express_threads),
    ):
        yield from _told(("sidecar_plan_threads", "Threads of the plan by pool.", threads, False), pool=pool)


def reuse_readings(shared: Shared, replays: Replays) -> Iterator[Reading]:
    """What was not done twice."""
    cache, flights, replies = shared.cache.statistics(), shared.flights.statistics(), replays.statistics()
    yield from _told(
        ("sidecar_cache_entries", "Results kept.", cache.entries, False),
        ("sidecar_cache_bytes", "Bytes of the arena that they take.", cache.kept_bytes, False),
        ("sidecar_cache_hits", "Items given a kept result.", cache.hits_total, True),
        ("sidecar_cache_misses", "Items of which none was kept.", cache.misses_total, True),
        ("sidecar_cache_evicted", "Results dropped for others.", cache.evicted_total, True),
        ("sidecar_cache_yielded", "Results dropped for work in hand.", cache.yielded_total, True),
        (
            "sidecar_cache_saved_cpu_seconds",
            "CPU time that hits have saved.",
            cache.saved_cpu_ms_total / 1e3,
            True,
        ),
        ("sidecar_flights_following", "Items that wait for another call's work.", flights.following, False),
        ("sidecar_flights_shared", "Items given another call's work.", flights.shared_total, True),
        ("sidecar_replays_entries", "Replies stored for retries.", replies.entries, False),
        ("sidecar_replays_replayed", "Calls given a stored reply.", replies.replayed_total, True),
    )


def cost_readings(costs: CostModel) -> Iterator[Reading]:
    """What predictions are multiplied by."""
    now = costs.statistics()
    yield Reading("sidecar_cost_machine_factor", "Cost here, by the table's machine.", {}, now.machine, False)


def handover_readings(upstream: TritonUpstream | None) -> Iterator[Reading]:
    """How tensors went to the model server, where there is one."""
    if upstream is None:
        return
    now = upstream.handover()
    yield from _told(
        (
            "sidecar_handover_wanted",
            "1 where the settings want shared memory used.",
            now.wanted,
            False,
        ),
        (
            "sidecar_handover_shared_memory",
            "1 while tensors go by shared memory, 0 while as bytes.",
            now.path == "shared_memory",
            False,
        ),
        (
            "sidecar_handover_shared_bytes",
            "Bytes of inputs told by their place.",
            now.shared_bytes_total,
            True,
        ),
        (
            "sidecar_handover_copied_bytes",
            "Bytes of inputs copied into messages.",
            now.copied_bytes_total,
            True,
        ),
        ("sidecar_handover_registrations", "Times the arena was registered.", now.registrations_total, True),
        (
            "sidecar_handover_detached_calls",
            "Calls that run on at the model server without their callers.",
            now.detached,
            False,
        ),
        ("sidecar_handover_limbo_slots", "Slots whose end is not known yet.", now.limbo, False),
    )


def verdict_readings(watcher: Watcher) -> Iterator[Reading]:
    """What the accelerators did by state, and what IDLE_PREP is charged to, where anybody watches."""
    if not watcher.watches:
        return
    watcher.refresh()
    yield from _told(
        ("sidecar_watch_cpu_seconds", "CPU time of watching itself.", watcher.spent_ns / 1e9, True),
        ("sidecar_watch_turns", "Times that accounts were settled.", watcher.turns, True),
        ("sidecar_journal_dropped_calls", "Ended calls that nobody looked at.", watcher.dropped, True),
    )
    for upstream, now in watcher.totals().items():
        for state, seconds in now.states.items():
            labels = {"upstream": upstream, "state": state.value}
            yield Reading(
                "sidecar_accelerator_state_seconds", "Wall time by state; each in one.", labels, seconds, True
            )
        for (cause, modality), seconds in now.starved.items():
            labels = {
                "upstream": upstream,
                "cause": cause.value,
                "modality": modality.value if modality else "none",
            }
            yield Reading(
                "sidecar_starved_seconds", "Starved time by what it was for.", labels, seconds, True
            )
        yield from _told(
            (
                "sidecar_underfilled_seconds",
                "Executions' room that rows in preprocessing would have filled.",
                now.fill_s,
                True,
            ),
            (
                "sidecar_starvation_ratio",
                "The part of the verdict's window that was starved.",
                now.starved_ratio,
                False,
            ),
            ("sidecar_starvation_alarm", "1 while the alarm is on.", now.alarm, False),
            upstream=upstream,
        )


def _gate_readings(gate: Gate, workers: Workers) -> Iterator[Reading]:
    """A reading a modality."""
    lanes, pools = gate.statistics(), workers.statistics()
    for modality, lane in lanes.items():
        pool = pools[modality]
        yield from _told(
            ("sidecar_gate_queued_items", "Items let in that wait for a worker.", lane.queued, False),
            ("sidecar_gate_running_items", "Items that a worker has.", lane.running, False),
            ("sidecar_gate_admitted_items", "Items that were given a worker.", lane.admitted_total, True),
            ("sidecar_gate_dropped_items", "Items dropped at their turn.", lane.dropped_total, True),
            (
                "sidecar_gate_refused_calls",
                "Calls refused because there was too much to do.",
                lane.refused_total,
                True,
            ),
            ("sidecar_workers_finished_jobs", "Jobs that ended.", pool.finished_total, True),
            ("sidecar_workers_abandoned_jobs", "Jobs whose caller had gone.", pool.abandoned_total, True),
            modality=modality.value,
        )


def lane_readings(lanes: Turns) -> Iterator[Reading]:
    """A reading a modality and cost class, and the rate, where admission is our own."""
    if not isinstance(lanes, Lanes):
        return
    yield Reading(
        "sidecar_gate_rate", "Cores' worth of work done, when there is enough.", {}, lanes.rate, False
    )
    for (modality, cost_class), lane in lanes.statistics().items():
        labels = {"modality": modality.value, "cost_class": str(cost_class)}
        yield from _told(
            ("sidecar_lane_queued_items", "Items of a cost class that wait.", lane.queued, False),
            ("sidecar_lane_queued_cpu_seconds", "CPU time that they will take.", lane.queued_ms / 1e3, False),
            ("sidecar_lane_begun_items", "Items of it whose turn came.", lane.begun_total, True),
            **labels,
        )


def credit_readings(credit: Credits) -> Iterator[Reading]:
    """A reading a model."""
    for model, now in credit.statistics().items():
        labels = {"model": model}
        yield Reading(
            "sidecar_upstream_items", "Items handed over and not answered.", labels, now.handed, False
        )
        yield Reading("sidecar_upstream_depth", "How many may be.", labels, now.depth, False)
