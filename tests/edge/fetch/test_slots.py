"""Fetches at once are bounded, and a tenant with many does not keep another from its turn."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.edge.fetch.slots import Slots
from sidecar.errors import Overloaded


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_whose_fewest_are_under_way_is_next_and_more_than_may_wait_are_refused() -> None:
    slots, order, gates = Slots(2, 3), list[str](), dict[str, asyncio.Event]()

    async def work(tenant: str, name: str) -> None:
        async with slots.slot(tenant):
            order.append(name)
            await gates.setdefault(name, asyncio.Event()).wait()

    tasks = [asyncio.create_task(work("a", f"a{number}")) for number in range(4)]
    await settle()
    tasks.append(asyncio.create_task(work("b", "b0")))
    await settle()
    with pytest.raises(Overloaded, match=r"fetch\.queued"):
        await work("c", "c0")
    assert (order, slots.waiting) == (["a0", "a1"], 3)
    for name in ("a0", "a1"):
        gates[name].set()
        await settle()
    assert order == ["a0", "a1", "b0", "a2"]
    for name in ("b0", "a2", "a3"):
        gates.setdefault(name, asyncio.Event()).set()
        await settle()
    await asyncio.gather(*tasks)
    assert order[-1] == "a3"
    assert not slots._running
    assert not slots._waiting


async def test_who_leaves_while_waiting_or_with_the_turn_in_hand_gives_it_on() -> None:
    slots, entered = Slots(1, 8), asyncio.Event()

    async def work(name: str) -> str:
        async with slots.slot(name):
            entered.set()
            return name

    async with slots.slot("first"):
        waits, given, last = (asyncio.create_task(work(name)) for name in ("waits", "given", "last"))
        await settle()
        waits.cancel()
        await settle()
    # The turn is given by now, and nobody has run since.
    given.cancel()
    assert await asyncio.wait_for(last, 10) == "last"
    assert waits.cancelled()
    assert given.cancelled()
    assert not slots._running
    assert not slots._waiting
