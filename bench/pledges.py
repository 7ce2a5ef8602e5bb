"""What the sidecar promises one by one: fairness among tenants, cheap refusals, and equal work done once."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multimodal.v1 import media_pb2, preprocessor_pb2

from bench.contest import Alone
from bench.ground import OURS, Ground, Served
from bench.load import closed_loop
from bench.mix import PICTURES, media, preprocess_request, request, requests, screenshot
from bench.processes import since, spent
from bench.sidecars import INFER, PREPROCESS
from bench.storm import Ask, Status, call, callers

TENANT_KEY = "x-tenant-id"
# Callers of each tenant, who all have a call in flight at any time.
_BACKLOG = 16
_TENANTS_S = 6.0
# Each tenant's own mix: as unlike as can be in the size of a job.
_TENANTS = {"many-small": "1080p", "few-large": "12 MP"}
# Refusals whose cost is measured; the share of calls that must have been refused for the figure to mean anything.
_REFUSALS, _PURE = 400, 0.9
# Deadlines to try, of a request's CPU time when it is alone: one of them leaves more than the model server takes and
# less than the work does, so that a call is refused for its work; and the calls that find out which.
_TOO_SOON, _TRIES = (0.5, 0.65, 0.8, 0.95, 1.1), 24
_HITS, _MISSES = 60, 12
_TOGETHER = 64


@dataclass(slots=True)
class _Book:
    """CPU milliseconds that each tenant has been given so far, the widest gap between two, and the dearest job."""

    spent_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TENANTS, 0.0))
    gap_ms: float = 0.0
    largest_ms: float = 0.0

    def charge(self, tenant: str, cpu_ms: float) -> None:
        self.spent_ms[tenant] += cpu_ms
        self.largest_ms = max(self.largest_ms, cpu_ms)
        self.gap_ms = max(self.gap_ms, max(self.spent_ms.values()) - min(self.spent_ms.values()))


def tenants(on: Ground) -> dict[str, Any]:
    """Two tenants, always backlogged, with jobs of very different size: how far apart their CPU time ever is."""
    book = on.loop.run(_tenants(on.servers[OURS].address))
    return {
        "case": "two backlogged tenants, 1080p against 12 MP",
        "kind": "tenants",
        "seconds": _TENANTS_S,
        **{f"{tenant}_cpu_ms": round(cpu_ms, 1) for tenant, cpu_ms in book.spent_ms.items()},
        "gap_ms": round(book.gap_ms, 1),
        "largest_job_ms": round(book.largest_ms, 1),
        "gap_over_largest": round(book.gap_ms / book.largest_ms, 2),
    }


async def _tenants(address: str) -> _Book:
    book, until = _Book(), time.monotonic() + _TENANTS_S

    async def caller(ask: Ask, tenant: str, own: Sequence[bytes]) -> None:
        for data in itertools.cycle(own):
            if time.monotonic() > until:
                return
            status, reply = await call(ask, data, None, ((TENANT_KEY, tenant),))
            # Both have work until the first of them has none; what ends later is not counted.
            if status is Status.OK and time.monotonic() <= until:
                book.charge(tenant, preprocessor_pb2.InferResponse.FromString(reply).cost.actual_cpu_ms)

    async with callers(address, INFER) as asks, asyncio.TaskGroup() as group:
        for number in range(_BACKLOG):
            for tenant, kind in _TENANTS.items():
                group.create_task(caller(asks[number % len(asks)], tenant, requests()[kind]))
    return book


def refusals(on: Ground, costs: Mapping[str, Alone]) -> dict[str, Any]:
    """What it takes to refuse: 1080p requests whose deadline is too soon for their work, one after another.

    `received_cpu_us` is what the same requests cost where they name no model that there is, for which nothing is
    looked at: their bytes' way in, and an answer.
    """
    server, own = on.servers[OURS], requests()["1080p"]

    def refused(timeout_s: float, count: int) -> tuple[float, float]:
        return on.loop.run(_refusals(server, own, timeout_s, count))

    soon = [costs["1080p"].cpu_ms / 1e3 * part for part in _TOO_SOON]
    timeout_s = max(soon, key=lambda each: refused(each, _TRIES)[0])
    pure, front_ns = refused(timeout_s, _REFUSALS)
    strangers = [request("nobody", data) for data in media()["1080p"]]
    _, received_ns = on.loop.run(_refusals(server, strangers, None, _REFUSALS))
    return {
        "case": "1080p requests that are refused",
        "kind": "refusals",
        "calls": _REFUSALS,
        "refused": round(pure, 3),
        "pure": pure >= _PURE,
        "front_cpu_us": round(front_ns / 1e3, 1),
        "received_cpu_us": round(received_ns / 1e3, 1),
    }


async def _refusals(
    server: Served, own: Sequence[bytes], timeout_s: float | None, count: int
) -> tuple[float, float]:
    """The share of calls that were refused, and CPU nanoseconds of the front a call."""
    async with callers(server.address, INFER) as asks:
        for ask in asks:
            await call(ask, own[0], timeout_s)
        before = spent(server.pid)
        statuses = [
            (await call(asks[number % len(asks)], own[number % len(own)], timeout_s))[0]
            for number in range(count)
        ]
        front_ns = since(before, spent(server.pid), [server.pid])
        return statuses.count(Status.REFUSED) / count, front_ns / count


def reuse(on: Ground) -> list[dict[str, Any]]:
    """What a hit costs beside a miss, by media and verb; and many equal requests at once."""
    files = {
        "PNG screenshot": screenshot(),
        "1080p JPEG": media()["1080p"][0],
        "12 MP JPEG": media()["12 MP"][0],
    }
    cases = [_hits(on, name, verb, data) for name, data in files.items() for verb in _VERBS]
    return [*cases, _together(on)]


@dataclass(frozen=True, slots=True)
class _Verb:
    method: str
    reply: type[preprocessor_pb2.InferResponse | preprocessor_pb2.PreprocessResponse]


_VERBS = {
    "Infer": _Verb(INFER, preprocessor_pb2.InferResponse),
    "Preprocess": _Verb(PREPROCESS, preprocessor_pb2.PreprocessResponse),
}
_LAY = {"Infer": request, "Preprocess": preprocess_request}


def _hits(on: Ground, name: str, verb: str, data: bytes) -> dict[str, Any]:
    miss_ns, _ = on.loop.run(_repeated(on, verb, _LAY[verb](PICTURES, data), _MISSES))
    hit_ns, kept = on.loop.run(_repeated(on, verb, _LAY[verb](PICTURES, data, fresh=False), _HITS))
    return {
        "case": f"{name}, {verb}: a hit beside a miss",
        "kind": "reuse",
        "miss_cpu_ms": round(miss_ns / 1e6, 3),
        "hit_cpu_ms": round(hit_ns / 1e6, 3),
        "hit_over_miss": round(hit_ns / miss_ns, 4),
        "kept": round(kept, 3),
    }


async def _repeated(on: Ground, verb: str, one: bytes, count: int) -> tuple[float, float]:
    """CPU nanoseconds of the server a call, and the share of replies whose item was kept from before."""
    server, replies = on.servers[OURS], list[bytes]()
    async with callers(server.address, _VERBS[verb].method) as asks:

        async def ask(number: int) -> bytes:
            replies.append(await asks[number % len(asks)](one))
            return replies[-1]

        await closed_loop(ask, 1, len(asks))
        replies.clear()
        before = spent(server.pid)
        await closed_loop(ask, 2, count)
        cpu_ns = since(before, spent(server.pid))
    items = [item for reply in replies for item in _VERBS[verb].reply.FromString(reply).items]
    kept = sum(item.reuse == media_pb2.REUSE_KEPT for item in items)
    return cpu_ns / count, kept / len(items)


def _together(on: Ground) -> dict[str, Any]:
    """Identical requests in flight at once, of a file that the server has not seen."""
    # Bytes behind the picture's end are no pixel's, and make it another file.
    data = media()["1080p"][1] + json.dumps(time.time_ns()).encode()
    made, cpu_ms = on.loop.run(_at_once(on, request(PICTURES, data, fresh=False)))
    return {
        "case": f"{_TOGETHER} identical requests at once",
        "kind": "together",
        "made": made,
        "cpu_ms": round(cpu_ms, 1),
    }


async def _at_once(on: Ground, one: bytes) -> tuple[int, float]:
    """How many of the replies' items were made for their own call, and their milliseconds together."""
    async with callers(on.servers[OURS].address, INFER) as asks:
        found = await asyncio.gather(*[call(asks[n % len(asks)], one, None) for n in range(_TOGETHER)])
    if any(status is not Status.OK for status, _ in found):
        return -1, math.nan
    items = [item for _, reply in found for item in preprocessor_pb2.InferResponse.FromString(reply).items]
    made = [item for item in items if item.reuse == media_pb2.REUSE_UNSPECIFIED]
    return len(made), sum(item.cost.actual_cpu_ms for item in made)
