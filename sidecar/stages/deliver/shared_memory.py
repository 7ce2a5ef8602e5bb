"""Tensors by place instead of by bytes: what the model server knows of the arena, and what is lent to it.

The arena is registered once, as one region under its own name, and unregistered at the end. A server that
refuses gets bytes, is asked again at ever longer intervals, and at once when it may be a new process.

What must never happen here: a slot given to somebody else while the model server may still write to it.
So what a call lends is pinned until the server has said that the call is over. Where it cannot say so any
more, because the connection was lost, outputs stay pinned until Triton proves that nobody there uses the
region: it refuses to unregister one in use, and a new process does not know it at all.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import grpc
from grpc import aio

from sidecar.deadline import Deadline
from sidecar.stages.deliver.faults import quote
from sidecar.stages.deliver.upstream import Call, SharedMemory, Slot
from sidecar.stages.deliver.wire import SERVICE, lay_registration, lay_unregistration

log = logging.getLogger(__name__)

_Unary = aio.UnaryUnaryMultiCallable[bytes, bytes]

# Outputs from this size on are asked for in a slot. Against a Python model the two paths are even at 128 KiB;
# at 256 KiB a slot saves 4 to 10 % of the round trip, at 1 MiB a quarter of it and 1.4 ms of CPU here. Below,
# what the detour costs (50 µs, and a call that cannot be cancelled) is more than the copy.
SLOT_FROM_BYTES = 256 * 1024
# The part of the arena that calls with outputs in it may hold, inputs included: they cannot be cancelled, and a
# model that hangs must leave room for the others. Out of the air.
_UNCANCELLABLE = 0.5
# For how long a cancelled execution is taken to go on reading its inputs. Backends read them when they begin;
# that some do it late costs nobody an answer, for whose call it was has gone.
LINGER_S = 2.0
# To register takes Triton 0.3 ms; who has not answered by then is served with bytes.
_ASK_S = 1.0
# A refusal is the operator's setting, and stands until he changes it and restarts the server: asked
# again after the first, twice that, and so on up to the last. Out of the air.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
# How often a server that came back is asked whether what was lost with the connection is over.
_SETTLE_S = 0.5
# How long `close` tries to unregister: as long as a cancelled execution is taken to read.
_CLOSE_S = LINGER_S
_CLOSE_PAUSE_S = 0.02

_HOW = (
    "to hand tensors over without copies start tritonserver with --allow-client-shm=true and give both "
    "containers the same /dev/shm (an emptyDir of medium Memory mounted there, or --ipc)"
)
# gRPC's word, with the status that Triton refuses with; by the time it is read the channel may stand again.
_UNREACHED = "failed to connect to all addresses"
_UNSETTLED = "calls from before the connection was lost still use it"


@dataclass(frozen=True, slots=True)
class Handover:
    """How tensors went to the model server.

    `path` is what is in use, "unknown" while the server has not been asked, and `reason` why it is bytes. `wanted`:
    the settings ask for shared memory.
    Since the start: how often the arena was registered; calls that named it, and those that did not;
    bytes of inputs that were told by place, and those copied into messages; calls that ran on at the
    server after their caller had gone, because outputs were to be written to slots. Now: calls that still
    do, and slots held because it is not known whether the server will write to them.
    """

    path: Literal["shared_memory", "raw", "unknown"] = "raw"
    reason: str = ""
    wanted: bool = True
    registrations_total: int = 0
    shared_calls_total: int = 0
    raw_calls_total: int = 0
    shared_bytes_total: int = 0
    copied_bytes_total: int = 0
    detached_total: int = 0
    detached: int = 0
    limbo: int = 0


@dataclass(slots=True)
class Loan:
    """The slots of one call, and under which registration the model server knows them.

    `region` is None for a call that hands over bytes. `ended` is for who makes the call to set, once the
    model server has said that it is over there. `uncancellable_bytes` are its slots', if outputs are in them.
    """

    region: str | None = None
    registration: int = 0
    inputs: tuple[Slot, ...] = ()
    outputs: dict[str, Slot] = field(default_factory=dict)
    uncancellable_bytes: int = 0
    ended: bool = False


def foretold(call: Call) -> dict[str, int]:
    """The bytes of every output that the call wants and whose size is certain from the model's signature."""
    signature = call.signature
    if signature is None or signature.decoupled or not call.inputs:
        return {}
    rows = 1
    if signature.max_batch_size > 0:
        rows = call.inputs[0].shape[0] if call.inputs[0].shape else 0
    return {
        spec.name: rows * math.prod(spec.shape) * spec.data_type.itemsize
        for spec in signature.outputs
        if min(spec.shape, default=0) >= 0
        and spec.data_type.itemsize
        and (not call.outputs or spec.name in call.outputs)
    }


class _State(enum.Enum):
    UNKNOWN = "unknown"
    REGISTERED = "shared_memory"
    REFUSED = "raw"


class Lender:
    """Lends slots of the arena to a model server's calls, as far as that server knows the arena.

    `memory` None lends nothing, ever, for `reason`. Lives on one event loop.
    """

    def __init__(self, memory: SharedMemory | None, channel: aio.Channel, reason: str = "") -> None:
        self._memory = memory
        self._channel = channel
        self._register: _Unary = channel.unary_unary(f"{SERVICE}SystemSharedMemoryRegister")
        self._unregister: _Unary = channel.unary_unary(f"{SERVICE}SystemSharedMemoryUnregister")
        self._state = _State.UNKNOWN if memory else _State.REFUSED
        self._reason = reason
        self._told: tuple[_State, str] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._ask_at = math.inf
        self._asking: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._lingering: dict[asyncio.TimerHandle, tuple[Slot, ...]] = {}
        self._limbo: list[Slot] = []
        self._variable: set[str] = set()
        self._uncancellable_bytes = 0
        self.registrations_total = 0

    @property
    def path(self) -> Literal["shared_memory", "raw", "unknown"]:
        return self._state.value

    @property
    def reason(self) -> str:
        """Why bytes are handed over; empty where they are not."""
        return self._reason

    @property
    def limbo(self) -> int:
        """Slots that the model server may still write to, for all that is known."""
        return len(self._limbo)

    async def ready(self, deadline: Deadline) -> None:
        """Sees to it that the server has been asked, where that is due.

        First callers wait for one answer together, and not longer than a second: to hand over bytes
        meanwhile would make a call's path a matter of luck, and the answer takes less time than a copy.
        """
        if self._state is _State.REGISTERED or self._memory is None:
            return
        if self._state is _State.REFUSED and asyncio.get_running_loop().time() < self._ask_at:
            return
        remaining = deadline.remaining_s()
        await asyncio.wait({self._ask()}, timeout=_ASK_S if remaining is None else min(remaining, _ASK_S))

    def lend(self, call: Call, *, outputs: bool) -> Loan:
        """Pins what the call has in the arena, and, if wanted, takes slots for its large outputs.

        Every loan ends in one `take_back`.
        """
        memory = self._memory
        if memory is None or self._state is not _State.REGISTERED:
            return Loan()
        _pin(call.slots)
        loan = Loan(memory.name, self.registrations_total, call.slots)
        if outputs and call.model not in self._variable:
            self._lend_outputs(call, loan, memory)
        return loan

    def _lend_outputs(self, call: Call, loan: Loan, memory: SharedMemory) -> None:
        wanted = {name: nbytes for name, nbytes in foretold(call).items() if nbytes >= SLOT_FROM_BYTES}
        if not wanted:
            return
        nbytes = sum(wanted.values()) + sum(slot.view.nbytes for slot in call.slots)
        if self._uncancellable_bytes + nbytes > memory.size * _UNCANCELLABLE:
            return
        for name, size in wanted.items():
            if (slot := memory.try_take(size)) is not None:
                slot.pin()
                loan.outputs[name] = slot
        if loan.outputs:
            loan.uncancellable_bytes = nbytes
            self._uncancellable_bytes += nbytes

    def take_back(self, loan: Loan, kept: Sequence[Slot] = ()) -> None:
        """Ends a loan. Slots that an answer has `kept` stay held; those in doubt stay pinned."""
        self._uncancellable_bytes -= loan.uncancellable_bytes
        inputs, outputs = loan.inputs, [slot for slot in loan.outputs.values() if slot not in kept]
        loan.inputs, loan.outputs = (), {}
        if loan.ended:
            _unpin((*inputs, *kept))
            _free(outputs)
            return
        self._linger(inputs)
        if outputs:
            self._limbo += outputs
            self._settle()

    def renew(self, loan: Loan) -> None:
        """Lends to the repetition of a call that the server refused, on the path that is in use now."""
        if self._memory is not None and self._state is _State.REGISTERED:
            loan.registration = self.registrations_total
        else:
            loan.region = None
            self._without_outputs(loan)

    def widen(self, loan: Loan, model: str) -> None:
        """Lends no slots for outputs to the repetition of a call, nor to the model until it is described again.

        For a model whose outputs are larger than its signature says.
        """
        self._variable.add(model)
        self._without_outputs(loan)

    def described(self, model: str) -> None:
        """A model may have become another."""
        self._variable.discard(model)

    def lost(self) -> None:
        """The connection broke: who answers next may be a new process."""
        if self._memory is not None:
            self._state, self._pause_s = _State.UNKNOWN, _FIRST_PAUSE_S

    def forgotten(self, loan: Loan) -> None:
        """The server does not know the region that a call named: it is a new process, or was told to forget."""
        if loan.registration == self.registrations_total:
            self._state, self._pause_s = _State.UNKNOWN, _FIRST_PAUSE_S

    async def close(self) -> None:
        """Unregisters the arena, which takes until calls that use it are over, and a while at most."""
        if self._settling is not None:
            self._settling.cancel()
        if self._asking is not None:
            await asyncio.wait({self._asking})
        memory, self._memory = self._memory, None
        if memory is not None and self.registrations_total:
            await self._forget(memory.name)
        self._state, self._reason = _State.REFUSED, "the connection was closed on this side"
        for timer, slots in self._lingering.items():
            timer.cancel()
            _unpin(slots)
        self._lingering.clear()

    async def _forget(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _CLOSE_S
        while True:
            code, words = await self._answer(self._unregister(lay_unregistration(name), timeout=_ASK_S))
            if code is grpc.StatusCode.OK:
                self._quiet()
                return
            if code is not grpc.StatusCode.INTERNAL or loop.time() > give_up:
                break
            await asyncio.sleep(_CLOSE_PAUSE_S)
        if code is not grpc.StatusCode.UNAVAILABLE:
            log.warning(
                "the model server keeps region %s until its end: %s %s", name, code.name, quote(words)
            )

    @staticmethod
    def _without_outputs(loan: Loan) -> None:
        _free(loan.outputs.values())
        loan.outputs = {}

    def _ask(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._find_out(), name="registration")
        return self._asking

    async def _find_out(self) -> None:
        """Registers the arena, and so learns whether it can be used. Raises nothing."""
        memory = self._memory
        if memory is None:
            return
        register, forget = lay_registration(memory.name, memory.size), lay_unregistration(memory.name)
        code, words = await self._answer(self._register(register, timeout=_ASK_S))
        if code is grpc.StatusCode.ALREADY_EXISTS and self.registrations_total and not self._limbo:
            # The connection was lost, the process is the same.
            self._use(_State.REGISTERED)
            return
        if code is grpc.StatusCode.ALREADY_EXISTS:
            code, words = await self._answer(self._unregister(forget, timeout=_ASK_S))
            if code is grpc.StatusCode.INTERNAL and self._limbo:
                self._ask_at = math.inf  # `_until_quiet` asks, not each call
                self._use(_State.REFUSED, _UNSETTLED)
                return
            if code is grpc.StatusCode.OK:
                code, words = await self._answer(self._register(register, timeout=_ASK_S))
        if code is grpc.StatusCode.OK:
            self.registrations_total += 1
            self._quiet()
            self._use(_State.REGISTERED)
            # A process that was killed has unregistered nothing, and its pages are kept by the server's mapping.
            for name in memory.predecessors if self.registrations_total == 1 else ():
                await self._answer(self._unregister(lay_unregistration(name), timeout=_ASK_S))
        elif code is not grpc.StatusCode.UNAVAILABLE or (_UNREACHED not in words and self._connected()):
            self._ask_at = asyncio.get_running_loop().time() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)
            self._use(_State.REFUSED, f"{code.name} {quote(words)}; {_HOW}")

    def _use(self, state: _State, reason: str = "") -> None:
        """Takes a path, and says so when it is another."""
        self._state, self._reason = state, reason
        if state is _State.REGISTERED:
            self._pause_s = _FIRST_PAUSE_S
        if self._told == (state, reason):
            return
        self._told = (state, reason)
        if self._memory is not None and state is _State.REGISTERED:
            log.info(
                "tensors go to the model server by shared memory: region %s of %d MiB",
                self._memory.name,
                self._memory.size >> 20,
            )
        else:
            log.warning("tensors go to the model server as bytes, for it refused the arena: %s", reason)

    def _connected(self) -> bool:
        """Whether the server that has just answered still stands; UNAVAILABLE was its own word then."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    @staticmethod
    async def _answer(call: aio.UnaryUnaryCall[bytes, bytes]) -> tuple[grpc.StatusCode, str]:
        try:
            await call
        except aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""

    def _linger(self, slots: tuple[Slot, ...]) -> None:
        if self._memory is None:
            _unpin(slots)
        elif slots:
            timer: asyncio.TimerHandle
            end: Callable[[], None] = lambda: _unpin(self._lingering.pop(timer))  # noqa: E731
            timer = asyncio.get_running_loop().call_later(LINGER_S, end)
            self._lingering[timer] = slots

    def _quiet(self) -> None:
        """Nobody at the server uses the region: what was in doubt is over."""
        _free(self._limbo)
        self._limbo = []

    def _settle(self) -> None:
        self.lost()
        if self._memory is not None and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._until_quiet(), name="limbo")

    async def _until_quiet(self) -> None:
        """Asks until nothing is in doubt any more: with few slots left, no call might come by to ask."""
        while self._limbo:
            await self._ask()
            if self._limbo:
                await asyncio.sleep(_SETTLE_S)


def _pin(slots: Sequence[Slot]) -> None:
    """Pins all or none. Raises what a lease raises that is over."""
    pinned: list[Slot] = []
    try:
        for slot in slots:
            slot.pin()
            pinned.append(slot)
    except BaseException:
        _unpin(pinned)
        raise


def _unpin(slots: Iterable[Slot]) -> None:
    for slot in slots:
        slot.unpin()


def _free(slots: Iterable[Slot]) -> None:
    for slot in slots:
        slot.unpin()
        slot.release()
