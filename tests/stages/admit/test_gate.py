"""The gate keeps its word: order, bounds, deadlines, and capacity that follows the work."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.deadline import Deadline
from sidecar.errors import DeadlineExceeded, InvalidRequest, Overloaded
from sidecar.media import Cost, Modality
from sidecar.stages.admit.gate import Gate, GateConfig, Places, Ticket

COST = Cost(cpu_ms=10.0, decoded_bytes=100)
FOREVER = Deadline(None)


def one_slot(max_queued: int = 8) -> Gate:
    return Gate({Modality.IMAGE: 1, Modality.AUDIO: 1}, GateConfig(max_queued))


def running(gate: Gate, modality: Modality = Modality.IMAGE) -> int:
    return gate.statistics()[modality].running


async def test_a_free_slot_is_given_at_once() -> None:
    gate = one_slot()
    ticket = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    assert (running(gate, Modality.IMAGE), running(gate, Modality.AUDIO)) == (1, 0)
    ticket.release()
    assert running(gate) == 0


async def test_waiting_items_are_served_in_order_of_arrival() -> None:
    gate = one_slot()
    held = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    served: list[int] = []

    async def wait(number: int) -> None:
        ticket = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
        served.append(number)
        ticket.release()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(wait(number))
        await asyncio.sleep(0)
        held.release()
    assert served == [0, 1, 2, 3, 4]


async def test_sound_does_not_wait_for_pictures() -> None:
    gate = one_slot()
    await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    await gate.enter(Modality.AUDIO, 1).ticket(COST, FOREVER)
    assert (running(gate, Modality.IMAGE), running(gate, Modality.AUDIO)) == (1, 1)


async def test_a_full_queue_refuses_the_whole_request_with_a_hint() -> None:
    gate = one_slot(max_queued=3)
    gate.enter(Modality.IMAGE, 2)
    with pytest.raises(Overloaded) as refused:
        gate.enter(Modality.IMAGE, 2)
    assert refused.value.retryable
    assert refused.value.retry_after_s >= 0.05
    assert "gate.max_queued" in refused.value.message
    assert gate.statistics()[Modality.IMAGE].refused_total == 1
    assert gate.statistics()[Modality.IMAGE].queued == 2


async def test_the_hint_grows_with_the_backlog() -> None:
    gate = one_slot(max_queued=3)
    await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    dear = Cost(cpu_ms=4_000.0, decoded_bytes=1)
    waiting = [asyncio.create_task(gate.enter(Modality.IMAGE, 1).ticket(dear, FOREVER)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        gate.enter(Modality.IMAGE, 1)
    # One runs for 10 ms, three wait for 4 s each, on one slot.
    assert refused.value.retry_after_s == pytest.approx(12.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_items_whose_cost_is_not_known_yet_count_as_the_others_do() -> None:
    gate = one_slot(max_queued=4)
    await gate.enter(Modality.IMAGE, 1).ticket(Cost(cpu_ms=500.0, decoded_bytes=1), FOREVER)
    gate.enter(Modality.IMAGE, 3)
    with pytest.raises(Overloaded) as refused:
        gate.enter(Modality.IMAGE, 2)
    assert refused.value.retry_after_s == pytest.approx(2.0)


async def test_a_flood_of_one_modality_leaves_the_other_its_queue() -> None:
    gate = one_slot(max_queued=3)
    gate.enter(Modality.AUDIO, 3)
    with pytest.raises(Overloaded):
        gate.enter(Modality.AUDIO, 1)
    gate.enter(Modality.IMAGE, 3)


async def test_a_look_at_the_queue_takes_no_room() -> None:
    gate = one_slot(max_queued=3)
    gate.check(Modality.IMAGE, 3)
    gate.enter(Modality.IMAGE, 3)
    with pytest.raises(Overloaded):
        gate.check(Modality.IMAGE, 1)


async def test_a_request_that_never_fits_is_refused_for_good() -> None:
    with pytest.raises(InvalidRequest) as refused:
        one_slot(max_queued=3).enter(Modality.IMAGE, 4)
    assert not refused.value.retryable


async def test_a_deadline_that_passes_in_the_queue_frees_the_place() -> None:
    gate = one_slot()
    held = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    with pytest.raises(DeadlineExceeded) as late:
        await gate.enter(Modality.IMAGE, 1).ticket(COST, Deadline.after(0.01))
    assert late.value.facts["stage"] == "admit"
    assert gate.statistics()[Modality.IMAGE].queued == 0
    held.release()
    assert running(gate) == 0


async def test_a_caller_who_leaves_the_queue_takes_no_slot_with_him() -> None:
    gate = one_slot()
    held = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    waiting = asyncio.create_task(gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    held.release()
    assert gate.statistics()[Modality.IMAGE].queued == 0
    assert running(gate) == 0


async def test_a_slot_granted_to_a_caller_who_just_left_is_not_lost() -> None:
    gate = one_slot()
    held = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    waiting = asyncio.create_task(gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER))
    await asyncio.sleep(0)
    held.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert running(gate) == 0


async def test_a_ticket_released_twice_frees_one_slot() -> None:
    gate = one_slot()
    ticket = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    ticket.release()
    ticket.release()
    first = await gate.enter(Modality.IMAGE, 1).ticket(COST, FOREVER)
    assert running(gate) == 1
    first.release()


@given(st.lists(st.sampled_from(["enter", "ticket", "leave", "release", "cancel"]), max_size=60))
def test_whatever_callers_do_nothing_leaks(actions: list[str]) -> None:  # noqa: C901 - a table of actions
    async def play() -> None:  # noqa: C901 - a table of actions
        gate = Gate({Modality.IMAGE: 2}, GateConfig(5))
        places: list[Places] = []
        waiting: list[asyncio.Task[Ticket]] = []
        tickets: list[Ticket] = []
        for action in actions:
            match action:
                case "enter":
                    try:
                        places.append(gate.enter(Modality.IMAGE, 1))
                    except Overloaded:
                        assert gate.statistics()[Modality.IMAGE].queued == 5
                case "ticket" if places:
                    waiting.append(asyncio.create_task(places.pop().ticket(COST, FOREVER)))
                case "leave" if places:
                    places.pop().leave()
                case "release" if tickets:
                    tickets.pop().release()
                case "cancel" if waiting:
                    waiting.pop().cancel()
            await asyncio.sleep(0)
            tickets += [task.result() for task in waiting if task.done() and not task.cancelled()]
            waiting = [task for task in waiting if not task.done()]
            assert running(gate) <= 2
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for place in places:
            place.leave()
        for ticket in tickets:
            ticket.release()
        assert gate.statistics()[Modality.IMAGE].queued == 0
        assert running(gate) == 0

    asyncio.run(play())
