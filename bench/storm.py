"""An open-loop storm of requests: each with its own deadline, each answer with its status. No statistics here.

Shots are sent when their schedule says so, whatever became of the ones before; a time is counted from that moment. The
callers are spread over several connections, since one connection would have icons wait behind photographs on the
wire. Requests are bytes that were serialised beforehand, and answers are left as they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import functools
import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from grpc import aio
from multimodal.v1 import preprocessor_pb2

from bench.load import poisson
from bench.mix import KINDS, Kind, requests
from inference_client import facts
from inference_client.ask import is_let_in
from inference_client.ask import metadata as ask_metadata

CONNECTIONS = 8
# Enough that the first shots are not late for want of a connection.
_HEAD_START_S = 0.05
# A caller who would be sent out with less than this left is sent all the same, as a real one would be.
_LEAST_S = 0.001
_LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_NO_RETRIES = [("grpc.enable_retries", 0)]
# Nice value of whoever generates load: it stands for machines of its own, and must not wait for the server's cores.
_PREFERRED = -10

# As our client does by default: for so long after a refusal its larger requests are asked about first.
_ASKS_FOR_S = 10.0
_ASKS_FROM_BYTES = 16 * 1024

Metadata = tuple[tuple[str, str | bytes], ...]


class Status(enum.Enum):
    """What became of a request. REFUSED is any status that the server gave at once or on reflection, but a late one."""

    OK = "ok"
    REFUSED = "refused"
    LATE = "late"
    FAILED = "failed"


_STATUSES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Status.REFUSED,
    grpc.StatusCode.INVALID_ARGUMENT: Status.REFUSED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Status.LATE,
    grpc.StatusCode.CANCELLED: Status.LATE,
}


@dataclass(frozen=True, slots=True)
class Shot:
    """A request to be sent `due_s` seconds after the start; `deadline_s` counts from there, None for none.

    Its bytes are in no text: asyncio makes one of a task's result, which for a storm took seconds.
    """

    due_s: float
    kind: Kind
    request: bytes = field(repr=False)
    deadline_s: float | None
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a shot. `taken_s` is from the moment that it was due, `lag_s` how late it was sent."""

    shot: Shot
    status: Status
    taken_s: float
    lag_s: float
    reply: bytes = field(default=b"", repr=False)

    @property
    def met(self) -> bool:
        """Whether it was answered well and within its deadline."""
        limit = self.shot.deadline_s
        return self.status is Status.OK and (limit is None or self.taken_s <= limit)


def shots(profile: Sequence[tuple[float, float]], seed: int) -> list[Shot]:
    """Poisson arrivals of the mix: `profile` is stretches of (seconds, requests a second), one behind another."""
    draws = np.random.default_rng([seed, len(profile)])
    shares = np.array([kind.percent for kind in KINDS]) / sum(kind.percent for kind in KINDS)
    files, turns = requests(), {kind.name: itertools.count() for kind in KINDS}
    found, start_s = [], 0.0
    for number, (seconds, rate) in enumerate(profile):
        for moment in poisson(rate, seconds, 1000 * seed + number):
            kind = KINDS[int(draws.choice(len(KINDS), p=shares))]
            own = files[kind.name]
            data = own[next(turns[kind.name]) % len(own)]
            found.append(Shot(start_s + moment, kind, data, kind.deadline_s))
        start_s += seconds
    return found


@dataclass(slots=True)
class Pressure:
    """Whether callers ask before they send media, as our client does: for some seconds after a refusal.

    Servers that do not know of it would be given the media after a moment; ours is under every policy here.
    """

    until: float = -math.inf

    def refused(self) -> None:
        self.until = time.monotonic() + _ASKS_FOR_S

    def asks(self, request: bytes) -> bool:
        return len(request) >= _ASKS_FROM_BYTES and time.monotonic() < self.until


class Ask:
    """A method on one connection, called with a serialised request."""

    def __init__(self, channel: aio.Channel, method: str, pressure: Pressure) -> None:
        self._plain: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        self._held: aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(method)
        self._pressure = pressure

    async def __call__(
        self, request: bytes, seconds: float | None = None, metadata: Metadata | None = None
    ) -> bytes:
        """The reply, within `seconds`. Raises as grpc.aio does."""
        try:
            if self._pressure.asks(request) and (told := _facts(request)):
                return await self._asking(request, seconds, (*(metadata or ()), *told))
            return await self._plain(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._pressure.refused()
            raise

    async def _asking(self, request: bytes, seconds: float | None, metadata: Metadata) -> bytes:
        """Sends the request when the server has let it in by its facts."""

        async def held() -> AsyncIterator[bytes]:
            if is_let_in(await under_way.initial_metadata()):
                yield request

        under_way = self._held(held(), timeout=seconds, metadata=metadata)
        return await under_way


@functools.lru_cache(maxsize=1024)
def _facts(request: bytes) -> Metadata:
    """What is told of a request's media ahead of it, as our client tells it; nothing where it does not ask."""
    message = preprocessor_pb2.InferRequest.FromString(request)
    told = facts.told(message, [facts.read(item.inline) for item in message.media])
    return () if told is None else ask_metadata(told)


@asynccontextmanager
async def callers(
    address: str, method: str, options: Sequence[tuple[str, object]] = _NO_RETRIES
) -> AsyncIterator[Sequence[Ask]]:
    """Connections to a server, all up; the method on each of them. Retries only where `options` bring them."""
    pressure = Pressure()
    alone = [*_LARGE, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1), *options]
    async with contextlib.AsyncExitStack() as open_channels:
        channels = [
            await open_channels.enter_async_context(aio.insecure_channel(address, options=alone))
            for _ in range(CONNECTIONS)
        ]
        for channel in channels:
            await channel.channel_ready()
        yield [Ask(channel, method, pressure) for channel in channels]


async def storm(
    asks: Sequence[Ask], every: Sequence[Shot], marks: Sequence[tuple[float, Callable[[], None]]] = ()
) -> list[Answer]:
    """Sends all shots by their schedule and waits for all answers, which come in the shots' order.

    `marks` are called at their seconds, for whoever reads clocks in between.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time() + _HEAD_START_S
    answers: list[Answer | None] = [None] * len(every)

    async def one(number: int) -> None:
        shot = every[number]
        lag_s = loop.time() - begun - shot.due_s
        status, reply = await call(
            asks[number % len(asks)],
            shot.request,
            None if shot.deadline_s is None else max(_LEAST_S, shot.deadline_s - lag_s),
            shot.metadata,
        )
        answers[number] = Answer(shot, status, loop.time() - begun - shot.due_s, lag_s, reply)

    async with asyncio.TaskGroup() as group:

        def begin(number: int) -> None:
            group.create_task(one(number))

        for number, shot in enumerate(every):
            loop.call_at(begun + shot.due_s, begin, number)
        for at_s, mark in marks:
            loop.call_at(begun + at_s, mark)
        last_s = max([shot.due_s for shot in every] + [at_s for at_s, _ in marks], default=0.0)
        # The group must not be left before the last has been begun.
        await asyncio.sleep(max(0.0, begun + last_s - loop.time()) + _HEAD_START_S)
    return [answer for answer in answers if answer is not None]


async def call(
    ask: Ask, request: bytes, timeout_s: float | None, metadata: Metadata = ()
) -> tuple[Status, bytes]:
    """One call: what became of it, and its reply where it has one."""
    try:
        return Status.OK, await ask(request, timeout_s, metadata or None)
    except grpc.RpcError as error:
        return _STATUSES.get(error.code(), Status.FAILED), b""


@contextmanager
def preferred() -> Iterator[bool]:
    """Gives this process's threads the cores before others, as far as it may; tells whether it did.

    A process that is started meanwhile inherits it: start servers before.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        _nice(_PREFERRED)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        _nice(before)


def _nice(value: int) -> None:
    """For all threads that there are, and those to come, which inherit it from whoever starts them.

    Where the kernel groups processes by session (sched(7), autogroups), nice values count inside a session alone,
    and servers have sessions of their own; so the session's is set too. What descends from init without a session
    of its own is in the root group, whose weight the kernel leaves alone (EINVAL): there the threads' own values count.
    """
    try:
        Path("/proc/self/autogroup").write_text(str(value), encoding="ascii")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), value)
