"""What ended calls took, summed: by modality, by stage, and the same whether it is counted at once or in parts."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import CorruptMedia
from sidecar.media import Modality
from sidecar.observe.demand import Demand
from sidecar.observe.journal import Passage
from sidecar.observe.timings import Stage
from tests.observe.passages import START_NS, item, noted, passage

EXPRESS_BELOW_MS = 4.0


def taken(*ended: Passage) -> Demand:
    demand = Demand()
    demand.count(noted(*ended), EXPRESS_BELOW_MS)
    return demand


def spent(stage: Stage, nanoseconds: int) -> tuple[Stage, int, int]:
    return stage, START_NS, START_NS + nanoseconds


def test_nothing_ended_is_nothing() -> None:
    assert taken() == Demand()
    assert Demand().worked_ns == 0


def test_calls_their_failures_and_their_times_are_counted() -> None:
    demand = taken(
        passage(ended_ns=START_NS + 7),
        passage(spent(Stage.ADMIT, 3), ended_ns=START_NS + 5, reason="OVERLOADED"),
        passage(modality=None, ended_ns=START_NS + 1),
    )
    assert (demand.calls, demand.failed) == (3, 1)
    assert (demand.residence_ns, demand.waited_ns) == (13, 3)


def test_items_and_their_cpu_time_are_counted_by_modality() -> None:
    demand = taken(
        passage(items=[item(cpu_ms=10.0), item(cpu_ms=6.0)]),
        passage(items=[item(cpu_ms=100.0)], modality=Modality.AUDIO),
        passage(items=[item(cpu_ms=5.0)]),
    )
    assert demand.items == {Modality.IMAGE: 3, Modality.AUDIO: 1}
    assert demand.cpu_ms == {Modality.IMAGE: 21.0, Modality.AUDIO: 100.0}


def test_items_that_no_worker_made_are_none() -> None:
    # Kept results, and what was refused before it came to a worker.
    demand = taken(passage(items=[item(), item(problem=CorruptMedia("empty"))]))
    assert (demand.calls, demand.items, demand.cpu_ms, demand.express_ms) == (1, {}, {}, {})


def test_items_that_failed_in_a_worker_took_their_time_too() -> None:
    demand = taken(passage(items=[item(cpu_ms=8.0, problem=CorruptMedia("cut short"))]))
    assert (demand.items, demand.cpu_ms) == ({Modality.IMAGE: 1}, {Modality.IMAGE: 8.0})


def test_small_items_are_counted_apart_and_in_all() -> None:
    demand = taken(passage(items=[item(cpu_ms=cost) for cost in (1.0, 3.5, EXPRESS_BELOW_MS, 9.0)]))
    assert demand.items == {Modality.IMAGE: 4}
    assert demand.cpu_ms == {Modality.IMAGE: 17.5}
    assert demand.express_ms == {Modality.IMAGE: 4.5}


def test_stages_of_items_and_of_the_call_are_counted_each_once() -> None:
    # A call's own timeline has its last item's stages too; those are the items' own to tell.
    own = (
        spent(Stage.RECEIVE, 1),
        spent(Stage.DECODE, 50),
        spent(Stage.DELIVER, 20),
        spent(Stage.RESPOND, 2),
    )
    items = [
        item(spent(Stage.PROBE, 3), spent(Stage.DECODE, 50), spent(Stage.TRANSFORM, 5), spent(Stage.PACK, 1)),
        item(spent(Stage.DECODE, 40)),
    ]
    demand = taken(passage(*own, items=items))
    assert demand.stage_ns == {
        Modality.IMAGE: {
            Stage.RECEIVE: 1,
            Stage.PROBE: 3,
            Stage.DECODE: 90,
            Stage.TRANSFORM: 5,
            Stage.PACK: 1,
            Stage.DELIVER: 20,
            Stage.RESPOND: 2,
        }
    }
    assert demand.worked_ns == 96


def test_calls_without_media_have_stages_of_their_own() -> None:
    demand = taken(passage(spent(Stage.DELIVER, 20), modality=None))
    assert demand.stage_ns == {None: {Stage.DELIVER: 20}}
    assert (demand.items, demand.worked_ns) == ({}, 0)


STAGES = st.lists(st.tuples(st.sampled_from(Stage), st.integers(0, 10**9)), max_size=4)
# Halves and quarters: sums of them are exact whatever the order.
ITEMS = st.builds(
    lambda stages, quarters: item(*(spent(*each) for each in stages), cpu_ms=quarters / 4),
    STAGES,
    st.integers(0, 100),
)
CALLS = st.lists(
    st.builds(
        lambda stages, items, modality, reason, took: passage(
            *(spent(*each) for each in stages),
            items=items,
            modality=modality,
            reason=reason,
            ended_ns=START_NS + took,
        ),
        STAGES,
        st.lists(ITEMS, max_size=3),
        st.sampled_from([*Modality, None]),
        st.sampled_from(["OK", "OVERLOADED"]),
        st.integers(0, 10**10),
    ),
    max_size=8,
)


@given(CALLS, st.integers(0, 8))
def test_parts_added_are_the_whole(ended: Sequence[Passage], cut: int) -> None:
    whole, parts = taken(*ended), taken(*ended[:cut])
    parts.add(taken(*ended[cut:]))
    assert parts == whole
    assert whole.worked_ns == sum(
        each.timeline.spent.get(stage, 0)
        for call in ended
        if call.modality is not None
        for each in call.items
        for stage in (Stage.DECODE, Stage.TRANSFORM, Stage.PACK)
    )


@given(CALLS)
def test_adding_leaves_what_is_added_as_it_was(ended: Sequence[Passage]) -> None:
    added, sums = taken(*ended), Demand()
    sums.add(added)
    sums.add(added)
    assert added == taken(*ended)
    assert sums.calls == 2 * len(ended)


def test_workers_were_off_their_cores_for_what_no_cpu_time_explains() -> None:
    demand = taken(passage(items=[item(spent(Stage.DECODE, 10_000_000), cpu_ms=4.0)]))
    assert demand.off_core == 0.6
    assert Demand().off_core == 0.0
