"""The gate keeps its word: bounds, deadlines, one ticket an item, and capacity that follows the work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import DeadlineExceeded, Overloaded, Unaffordable
from sidecar.media import Cost, Modality
from sidecar.stages.admit.gate import Gate, Places, Slots, Ticket, choose_memory_bytes, refused
from sidecar.stages.admit.lanes import Lanes, LanesConfig
from sidecar.stages.admit.turns import Asker, Drop, Refusal, Verdict, Work

PICTURE = Asker(Modality.IMAGE, "model")
SOUND = Asker(Modality.AUDIO, "sounds")
COST = Cost(cpu_ms=10.0, decoded_bytes=100)
SMALL = Cost(cpu_ms=1.0, decoded_bytes=1)
MEMORY = 1_000
MIB = 1 << 20


def one_slot(max_queued: int = 8, express: int = 0, **more: object) -> Gate:
    slots = Slots({Modality.IMAGE: 1, Modality.AUDIO: 1}, 2, express)
    return opened(slots, max_queued=max_queued, **more)


def opened(slots: Slots, max_queued: int = 8, **more: object) -> Gate:
    turns = Lanes(LanesConfig(max_queued=max_queued), slots.together)
    return Gate(turns, slots, memory_bytes=MEMORY, **more)  # type: ignore[arg-type]


def enter(gate: Gate, *costs: Cost, asker: Asker = PICTURE, room: Room | None = None) -> Places:
    costs = costs or (COST,)
    sizes = [0] * len(costs)
    return gate.enter(asker, costs, sizes) if room is None else gate.enter(asker, costs, sizes, room)


async def taken(gate: Gate, *costs: Cost, asker: Asker = PICTURE) -> Ticket:
    """A ticket that is to be had at once."""
    async with asyncio.timeout(0):
        return await enter(gate, *costs, asker=asker).ticket(0)


def running(gate: Gate, modality: Modality = Modality.IMAGE) -> int:
    return gate.statistics()[modality].running


def queued(gate: Gate, modality: Modality = Modality.IMAGE) -> int:
    return gate.statistics()[modality].queued


def within(seconds: float, asker: Asker = PICTURE) -> Asker:
    return replace(asker, deadline_ns=time.monotonic_ns() + int(seconds * 1e9))


def is_waiting(places: Places, index: int = 0) -> bool:
    return not places._waiting[index].turn.done()


@dataclass
class Room:
    """The room of a call, in an arena that has so many slots free; each call takes one and keeps it."""

    free: list[int]
    held: bool = False
    asked: int = field(default=0)

    def take(self) -> bool:
        self.asked += 1
        if self.free[0]:
            self.free[0] -= 1
            self.held = True
        return self.held


class TestSlots:
    async def test_a_free_slot_is_given_at_once(self) -> None:
        gate = one_slot()
        ticket = await taken(gate)
        assert (running(gate), running(gate, Modality.AUDIO)) == (1, 0)
        ticket.release()
        assert running(gate) == 0

    async def test_waiting_items_are_served_in_order_of_arrival(self) -> None:
        gate = one_slot()
        held = await taken(gate)
        served: list[int] = []

        async def wait(number: int) -> None:
            ticket = await enter(gate).ticket(0)
            served.append(number)
            ticket.release()

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(wait(number))
            await asyncio.sleep(0)
            held.release()
        assert served == [0, 1, 2, 3, 4]

    async def test_sound_does_not_wait_for_pictures(self) -> None:
        gate = one_slot()
        await taken(gate)
        await taken(gate, asker=SOUND)
        assert (running(gate), running(gate, Modality.AUDIO)) == (1, 1)

    async def test_all_modalities_together_have_no_more_slots_than_there_are(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 2, Modality.AUDIO: 2}, 3))
        tickets = [await taken(gate, asker=asker) for asker in (PICTURE, PICTURE, SOUND)]
        places = enter(gate, asker=SOUND)
        assert is_waiting(places)
        tickets[0].release()
        assert not is_waiting(places)

    async def test_more_slots_are_given_out_at_once(self) -> None:
        gate = one_slot()
        await taken(gate)
        places = enter(gate)
        assert is_waiting(places)
        gate.resize(Slots({Modality.IMAGE: 2, Modality.AUDIO: 1}, 3), 2)
        assert not is_waiting(places)

    async def test_who_has_a_slot_that_is_taken_away_keeps_it_to_its_end(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 2}, 2))
        first, second = await taken(gate), await taken(gate)
        places = enter(gate)
        gate.resize(Slots({Modality.IMAGE: 1}, 1), 1)
        first.release()
        assert is_waiting(places)
        second.release()
        assert not is_waiting(places)

    async def test_small_items_lose_and_get_their_slots(self) -> None:
        gate = one_slot()
        await taken(gate)
        places = enter(gate, SMALL)
        assert is_waiting(places)
        gate.resize(Slots({Modality.IMAGE: 1, Modality.AUDIO: 1}, 2, 1), 2)
        assert (await places.ticket(0)).express

    async def test_each_item_of_a_call_has_a_ticket_of_its_own(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 2}, 2))
        places = enter(gate, COST, Cost(20.0, 7), COST)
        second, first = await places.ticket(1), await places.ticket(0)
        assert (second.cost.decoded_bytes, first.cost.decoded_bytes) == (7, 100)
        assert is_waiting(places, 2)
        first.release()
        (await places.ticket(2)).release()
        second.release()
        assert (running(gate), gate.statistics()[Modality.IMAGE].admitted_total) == (0, 3)

    async def test_small_items_have_slots_beside_the_others_and_only_they(self) -> None:
        gate = one_slot(express=1)
        held = await taken(gate)
        small = await taken(gate, SMALL)
        assert (held.express, small.express, running(gate)) == (False, True, 1)
        assert is_waiting(enter(gate, SMALL))
        assert is_waiting(enter(gate, COST))
        small.release()
        assert (queued(gate), running(gate)) == (1, 1)

    async def test_a_small_item_takes_its_own_slot_though_another_is_free(self) -> None:
        gate = one_slot(express=1)
        assert (await taken(gate, SMALL)).express
        assert not (await taken(gate, COST)).express

    async def test_a_ticket_released_twice_frees_one_slot(self) -> None:
        gate = one_slot()
        ticket = await taken(gate)
        ticket.release()
        ticket.release(5.0)
        await taken(gate)
        assert running(gate) == 1
        assert is_waiting(enter(gate))

    async def test_what_the_work_took_is_told_to_those_who_decide(self) -> None:
        gate = one_slot()
        for name, took_ms in (("dear", 500.0), ("cheap", 10.0)):
            (await taken(gate, asker=replace(PICTURE, tenant=name))).release(took_ms)
        held = await taken(gate, asker=replace(PICTURE, tenant="cheap"))
        dear = enter(gate, asker=replace(PICTURE, tenant="dear"))
        cheap = enter(gate, asker=replace(PICTURE, tenant="cheap"))
        held.release(10.0)
        assert (is_waiting(dear), is_waiting(cheap)) == (True, False)


class TestLeaving:
    async def test_a_deadline_that_passes_in_the_queue_frees_the_place(self) -> None:
        gate = one_slot()
        held = await taken(gate, SMALL)
        places = enter(gate, SMALL, asker=within(0.03))
        with pytest.raises(DeadlineExceeded) as late:
            await places.ticket(0)
        assert late.value.facts["stage"] == "admit"
        assert queued(gate) == 0
        held.release()
        assert running(gate) == 0

    async def test_a_deadline_that_passed_before_is_told_at_once(self) -> None:
        with pytest.raises(DeadlineExceeded):
            enter(one_slot(), asker=within(0))

    async def test_a_caller_who_leaves_the_queue_takes_no_slot_with_him(self) -> None:
        gate = one_slot()
        held = await taken(gate)
        waiting = asyncio.create_task(enter(gate).ticket(0))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        held.release()
        assert (queued(gate), running(gate)) == (0, 0)

    async def test_a_slot_granted_to_a_caller_who_just_left_goes_to_the_next(self) -> None:
        gate = one_slot()
        held = await taken(gate)
        waiting = asyncio.create_task(enter(gate).ticket(0))
        await asyncio.sleep(0)
        following = enter(gate)
        held.release()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        (await following.ticket(0)).release()
        assert (queued(gate), running(gate)) == (0, 0)

    async def test_a_slot_that_comes_free_before_a_cancelled_caller_notices_is_not_given_to_it(self) -> None:
        gate = one_slot()
        held = await taken(gate)
        waiting = asyncio.create_task(enter(gate).ticket(0))
        await asyncio.sleep(0)
        waiting.cancel()
        held.release()
        following = enter(gate)
        assert not is_waiting(following)
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert running(gate) == 1

    async def test_a_slot_granted_as_the_deadline_passes_is_not_lost(self) -> None:
        gate = one_slot()
        held = await taken(gate, SMALL)
        places = enter(gate, SMALL, asker=within(0.05))
        waiting = asyncio.create_task(places.ticket(0))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        # The grant and the deadline fall into one turn of the loop.
        loop.call_later(0.05, held.release)
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(outcome, Ticket):
            outcome.release()
        else:
            assert isinstance(outcome, DeadlineExceeded)
            held.release()
        assert (queued(gate), running(gate)) == (0, 0)

    async def test_leaving_gives_back_what_waits_and_what_was_granted_and_not_what_was_taken(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 2}, 2))
        places = enter(gate, COST, COST, COST)
        ticket = await places.ticket(0)
        places.leave()
        places.leave()
        assert (queued(gate), running(gate)) == (0, 1)
        ticket.release()
        assert running(gate) == 0

    async def test_what_could_not_be_done_in_time_any_more_is_dropped_at_its_turn(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 1}, 1))
        held = await taken(gate)
        places = enter(gate, Cost(100.0, 1), asker=within(0.15))
        waiting = asyncio.create_task(places.ticket(0))
        await asyncio.sleep(0.09)
        held.release()
        with pytest.raises(DeadlineExceeded):
            await waiting
        now = gate.statistics()[Modality.IMAGE]
        assert (now.queued, now.running, now.dropped_total, now.admitted_total) == (0, 0, 1, 1)


class TestRefusals:
    async def test_a_full_queue_refuses_the_whole_request_with_a_hint(self) -> None:
        gate = one_slot(max_queued=3)
        held = await taken(gate)
        enter(gate, COST, COST)
        with pytest.raises(Overloaded, match=r"gate\.max_queued") as overloaded:
            enter(gate, COST, COST)
        assert overloaded.value.retryable
        assert overloaded.value.retry_after_s >= 0.016
        now = gate.statistics()[Modality.IMAGE]
        assert (now.refused_total, now.queued) == (1, 2)
        held.release()

    async def test_a_look_at_the_queue_takes_no_room(self) -> None:
        gate = one_slot(max_queued=3)
        await taken(gate)
        gate.check(PICTURE, 3)
        enter(gate, COST, COST, COST)
        with pytest.raises(Overloaded):
            gate.check(PICTURE, 1)

    async def test_media_that_is_still_on_its_way_is_refused_as_if_it_were_there(self) -> None:
        gate = one_slot()
        gate.require(PICTURE, [COST])
        with pytest.raises(Unaffordable, match="1001 bytes"):
            gate.require(PICTURE, [Cost(1.0, 1_001)])
        assert (queued(gate), gate.statistics()[Modality.IMAGE].refused_total) == (0, 1)

    async def test_a_request_that_never_fits_is_refused_for_good(self) -> None:
        with pytest.raises(Unaffordable, match=r"4 items .* `gate\.max_queued` 3") as unaffordable:
            enter(one_slot(max_queued=3), COST, COST, COST, COST)
        assert not unaffordable.value.retryable

    async def test_what_can_never_be_done_in_its_time_is_refused_for_good(self) -> None:
        with pytest.raises(Unaffordable, match="even where nothing waits"):
            enter(one_slot(), Cost(1_000.0, 1), asker=within(0.5))

    async def test_what_cannot_be_done_in_its_time_now_is_refused_with_the_time_that_it_lacks(self) -> None:
        gate = one_slot()
        for _ in range(3):
            enter(gate, Cost(200.0, 1))
        with pytest.raises(Overloaded, match="would be done in") as overloaded:
            enter(gate, Cost(200.0, 1), asker=within(0.25))
        assert 0.1 < overloaded.value.retry_after_s < 1.0

    async def test_a_forecast_is_what_would_happen_and_changes_nothing(self) -> None:
        gate = one_slot()
        for costs, kind in (([COST], None), ([Cost(1.0, 1_001)], Unaffordable), ([COST] * 9, Unaffordable)):
            before = repr(gate)
            verdict = gate.foretell(PICTURE, costs)
            assert repr(gate) == before
            assert verdict.wait_s > 0
            if kind is None:
                assert verdict.refusal is None
                enter(gate, *costs).leave()
            else:
                assert isinstance(refused(verdict.refusal or pytest.fail("let in")), kind)
                with pytest.raises(kind):
                    enter(gate, *costs)

    @given(st.floats(0, 1e6))
    def test_hints_are_spread_and_bounded(self, wished_s: float) -> None:
        hints = {refused(Refusal("waits", wished_s)).facts["retry_after_s"] for _ in range(50)}
        bounded = min(5.0, max(0.02, wished_s))
        assert all(0.8 * bounded - 1e-3 <= float(hint) <= 1.2 * bounded + 1e-3 for hint in hints)
        assert len(hints) > 3


class TestMemory:
    async def test_items_under_way_decode_to_no_more_than_the_memory(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 4}, 4))
        first = await taken(gate, Cost(10.0, 600))
        second = enter(gate, Cost(10.0, 500))
        assert is_waiting(second)
        first.release()
        assert not is_waiting(second)

    async def test_a_large_item_is_not_overtaken_for_ever_by_small_ones(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 4}, 4))
        held = [await taken(gate, Cost(10.0, 300)) for _ in range(2)]
        large = enter(gate, Cost(100.0, 900))
        small = enter(gate, Cost(10.0, 100))
        assert (is_waiting(large), is_waiting(small)) == (True, True)
        for ticket in held:
            ticket.release()
        assert not is_waiting(large)
        (await large.ticket(0)).release()
        assert not is_waiting(small)

    async def test_a_large_item_that_the_model_server_keeps_waiting_keeps_nobody_else(self) -> None:
        full: list[str] = []
        gate = opened(Slots({Modality.IMAGE: 4}, 4), upstream_room=lambda model: model not in full)
        held = await taken(gate, Cost(10.0, 300))
        large = enter(gate, Cost(100.0, 900), asker=replace(PICTURE, delivers=True))
        small = enter(gate, Cost(10.0, 100), asker=replace(PICTURE, model="other", delivers=True))
        assert (is_waiting(large), is_waiting(small)) == (True, True)
        full.append("model")
        gate.kick()
        assert (is_waiting(large), is_waiting(small)) == (True, False)
        held.release()
        assert is_waiting(large)

    async def test_an_item_that_decodes_to_more_than_the_memory_is_refused_for_good(self) -> None:
        with pytest.raises(Unaffordable, match=r"1001 bytes.*`gate\.memory_bytes` is 1000"):
            enter(one_slot(), Cost(10.0, 1_001))

    async def test_media_that_waits_holds_no_more_than_the_memory(self) -> None:
        gate = one_slot()
        await taken(gate)
        waiting = gate.enter(PICTURE, [COST, COST], [300, 300])
        with pytest.raises(Overloaded, match="600 that wait already") as overloaded:
            gate.enter(PICTURE, [COST], [401])
        assert overloaded.value.retry_after_s > 0
        gate.enter(PICTURE, [COST], [400]).leave()
        waiting.leave()
        gate.enter(PICTURE, [COST], [1_000])
        with pytest.raises(Unaffordable, match="brings 1001 bytes"):
            gate.enter(PICTURE, [COST], [1_001])

    async def test_media_that_has_begun_waits_no_more(self) -> None:
        gate = one_slot()
        gate.enter(PICTURE, [COST], [1_000])
        gate.enter(PICTURE, [COST], [1_000])

    @pytest.mark.parametrize(
        ("asked", "limit", "arena", "processes", "chosen"),
        [
            (5, 1 << 40, MIB, 2, 5),
            (0, 1024 * MIB, 256 * MIB, 2, 224 * MIB),
            (0, 256 * MIB, 64 * MIB, 2, 64 * MIB),
            (0, 1 << 40, MIB, 2, 4096 * MIB),
        ],
    )
    def test_the_memory_is_as_asked_or_half_of_what_is_left(
        self, asked: int, limit: int, arena: int, processes: int, chosen: int
    ) -> None:
        assert choose_memory_bytes(asked, limit, arena, processes) == chosen


class TestUpstream:
    async def test_nothing_is_begun_for_a_model_server_that_has_enough(self) -> None:
        full = ["model"]
        gate = one_slot(upstream_room=lambda model: model not in full)
        delivered = enter(gate, asker=replace(PICTURE, delivers=True))
        assert is_waiting(delivered)
        prepared = enter(gate)
        assert not is_waiting(prepared)  # nothing of it goes there
        full.clear()
        (await prepared.ticket(0)).release()
        assert not is_waiting(delivered)

    async def test_a_model_server_that_is_stuck_keeps_no_other_model_waiting(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 2}, 2), upstream_room=lambda model: model != "stuck")
        stuck = [enter(gate, asker=replace(PICTURE, model="stuck", delivers=True)) for _ in range(3)]
        other = enter(gate, asker=replace(PICTURE, model="other", delivers=True))
        assert (list(map(is_waiting, stuck)), is_waiting(other)) == ([True] * 3, False)


class TestRoom:
    async def test_a_call_takes_its_room_once_when_its_first_item_begins(self) -> None:
        gate = one_slot()
        held = await taken(gate)
        room = Room([1])
        places = enter(gate, COST, COST, room=room)
        assert room.asked == 0
        held.release()
        (await places.ticket(0)).release()
        await places.ticket(1)
        assert (room.held, room.asked, room.free) == (True, 1, [0])

    async def test_who_finds_no_room_begins_when_there_is(self) -> None:
        gate, free = one_slot(), [0]
        places = enter(gate, room=Room(free))
        assert (is_waiting(places), running(gate)) == (True, 0)
        gate.kick()
        assert is_waiting(places)
        free[0] = 1
        gate.kick()
        assert not is_waiting(places)

    async def test_nobody_takes_room_before_who_is_short_of_it(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 4, Modality.AUDIO: 4}, 4))
        short = Room([0])
        first = enter(gate, Cost(100.0, 1), room=short)
        other = enter(gate, SMALL, room=Room([1]))
        sound = enter(gate, SMALL, asker=SOUND, room=Room([1]))
        assert [is_waiting(each) for each in (first, other, sound)] == [True] * 3
        short.free[0] = 1
        gate.kick()
        assert [is_waiting(each) for each in (first, other, sound)] == [False] * 3

    async def test_who_is_short_of_room_and_leaves_keeps_nobody_any_more(self) -> None:
        gate = opened(Slots({Modality.IMAGE: 4}, 4))
        first = enter(gate, Cost(100.0, 1), room=Room([0]))
        other = enter(gate, SMALL, room=Room([1]))
        assert is_waiting(other)
        first.leave()
        assert not is_waiting(other)

    async def test_a_call_that_has_its_room_passes_one_that_lacks_it_also_in_the_same_lane(self) -> None:
        """Else the two would wait for each other: for the room, and for the place in the queue."""
        gate, free = opened(Slots({Modality.IMAGE: 1}, 1)), [1]
        held = await taken(gate, SMALL)
        short = enter(gate, COST, room=Room(free))
        begun = enter(gate, SMALL, COST, room=Room(free))
        held.release()
        tickets = [await begun.ticket(0)]
        assert is_waiting(short)
        tickets[0].release()
        tickets.append(await asyncio.wait_for(begun.ticket(1), 1))
        assert is_waiting(short)
        tickets[1].release()
        free[0] = 1
        gate.kick()
        assert not is_waiting(short)

    async def test_an_item_that_is_done_again_passes_one_that_waits_for_its_room(self) -> None:
        """A sound that is longer than its header says: its call holds what the other waits for."""
        gate = one_slot()
        short = enter(gate, asker=SOUND, room=Room([0]))
        again = enter(gate, asker=SOUND)
        assert (is_waiting(short), is_waiting(again)) == (True, False)

    async def test_who_is_short_of_room_and_kept_by_the_model_server_keeps_nobody_else(self) -> None:
        full: list[str] = []
        gate = opened(Slots({Modality.IMAGE: 4}, 4), upstream_room=lambda model: model not in full)
        short = enter(gate, asker=replace(PICTURE, delivers=True), room=Room([0]))
        other = enter(gate, SMALL, room=Room([1]))
        assert is_waiting(other)
        full.append("model")
        gate.kick()
        assert (is_waiting(short), is_waiting(other)) == (True, False)

    async def test_what_is_dropped_takes_no_room(self) -> None:
        turns = Dropping()
        gate, room = Gate(turns, Slots({Modality.IMAGE: 1}, 1), memory_bytes=MEMORY), Room([1])
        places = enter(gate, room=room)
        with pytest.raises(Overloaded, match="waited much longer"):
            await places.ticket(0)
        assert (room.asked, queued(gate), running(gate), turns.inside) == (0, 0, 0, 0)

    async def test_room_that_comes_free_while_the_gate_gives_out_is_given_out_too(self) -> None:
        gate, free = opened(Slots({Modality.IMAGE: 4}, 4)), [1]

        class Freeing(Room):
            def take(self) -> bool:
                gate.kick()  # as the arena does when something that was kept goes
                return super().take()

        places = [enter(gate, room=Freeing(free)) for _ in range(2)]
        assert [is_waiting(each) for each in places] == [False, True]


class Dropping:
    """Turns that drop whatever comes."""

    def __init__(self) -> None:
        self.inside = 0
        self._works: list[Work] = []

    def resize(self, cores: int, express: int) -> None:
        """It asks for neither."""

    def full(self, _asker: Asker, _count: int, _now_ns: int) -> Refusal | None:
        return None

    def judge(self, _works: Sequence[Work], _now_ns: int) -> Verdict:
        return Verdict(0.0)

    def join(self, work: Work, now_ns: int) -> None:
        assert now_ns
        self._works.append(work)
        self.inside += 1

    def leave(self, work: Work, now_ns: int) -> None:
        raise AssertionError((work, now_ns))

    def begin(self, now_ns: int, may: object) -> Work | None:
        assert now_ns
        assert callable(may)
        return self._works.pop() if self._works and may(self._works[0]) else None

    def drop(self, _work: Work, _now_ns: int) -> Drop | None:
        return Drop.STALE

    def ended(self, _work: Work, cpu_ms: float, _now_ns: int) -> None:
        assert cpu_ms == 0
        self.inside -= 1


ACTIONS = ["enter", "enter two", "ticket", "leave", "release", "cancel", "free", "fill", "full", "drained"]


class Play:
    """Callers of a gate with two slots and one for small items, an arena, and a model server."""

    def __init__(self) -> None:
        self.upstream = True
        self.free = [2]
        self.gate = opened(
            Slots({Modality.IMAGE: 2, Modality.AUDIO: 1}, 2, 1), 5, upstream_room=lambda _model: self.upstream
        )
        self.places: list[tuple[Places, int]] = []
        self.waiting: list[asyncio.Task[Ticket]] = []
        self.tickets: list[Ticket] = []

    def enter(self, *costs: Cost) -> None:
        try:
            places = enter(self.gate, *costs, asker=replace(PICTURE, delivers=True), room=Room(self.free))
        except Overloaded:
            assert queued(self.gate) + len(costs) > 5
        else:
            self.places += [(places, index) for index in range(len(costs))]

    async def act(self, action: str) -> None:
        match action:
            case "enter":
                self.enter(COST)
            case "enter two":
                self.enter(SMALL, COST)
            case "ticket" if self.places:
                places, index = self.places.pop()
                self.waiting.append(asyncio.create_task(places.ticket(index)))
            case "leave" if self.places:
                leaving, _ = self.places[-1]
                self.places = [(places, index) for places, index in self.places if places is not leaving]
                leaving.leave()
            case "release" if self.tickets:
                self.tickets.pop().release(3.0)
            case "cancel" if self.waiting:
                self.waiting.pop().cancel()
            case "free" | "fill":
                self.free[0] = 2 if action == "free" else 0
                self.gate.kick()
            case "full" | "drained":
                self.upstream = action == "drained"
                self.gate.kick()

    async def turn(self) -> None:
        await asyncio.sleep(0)
        done = [task for task in self.waiting if task.done()]
        self.waiting = [task for task in self.waiting if task not in done]
        self.tickets += [task.result() for task in done if not task.cancelled() and not task.exception()]
        assert running(self.gate) <= 2
        assert self.gate._decoding_bytes <= MEMORY
        assert 0 <= self.gate._ready <= queued(self.gate)

    async def end(self) -> None:
        for task in self.waiting:
            task.cancel()
        outcomes = await asyncio.gather(*self.waiting, return_exceptions=True)
        self.tickets += [outcome for outcome in outcomes if isinstance(outcome, Ticket)]
        for places, _ in self.places:
            places.leave()
        for ticket in self.tickets:
            ticket.release()


@given(st.lists(st.sampled_from(ACTIONS), max_size=60))
@settings(deadline=None)
def test_whatever_callers_do_nothing_leaks(actions: list[str]) -> None:
    async def play() -> None:
        callers = Play()
        for action in actions:
            await callers.act(action)
            await callers.turn()
        await callers.end()
        gate = callers.gate
        assert (queued(gate), running(gate)) == (0, 0)
        assert (gate._express, gate._decoding_bytes, gate._waiting_bytes, gate._ready) == (0, 0, 0, 0)
        assert (gate._short, gate._large) == (None, None)
        assert "0 queued, 0 under way" in repr(gate._turns)

    asyncio.run(play())
