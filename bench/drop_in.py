"""What changing a port costs a client of Triton's: the same calls to the real Triton, and through the sidecar.

Requests are laid once and sent as bytes, by one synchronous channel each way, in turn in short blocks, so that a slow
spell of the machine is both sides'. The model is the emulated accelerator, which takes no time; the figure is how
much longer the median call takes. Beside it stands what a relay adds that does nothing but hand bytes on with gRPC's
asyncio: so much is not the sidecar's to save. Of a stream, how much longer a token is on its way, by the time that
the model put into it; how soon the model hears that its caller has gone; and many slow streams at once, with what
they cost in memory. Last, whether each call of an unchanged client ends as it does at Triton.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import uvloop
from grpc import aio

from bench.episodes import relay
from bench.episodes.accelerator import Accelerator
from bench.episodes.stage import relayed, sidecar
from bench.load import median, percentile
from bench.processes import on_cores
from bench.report import at_least, at_most, report
from bench.rig import CORES
from bench.wire import TICKER, Tick, laid_infer, laid_tick
from testbed import triton_calls
from testbed.install import install
from testbed.triton import MODELS, Triton

ROUNDS = 5
SIZES = {"1 KB": (256,), "0.6 MB": (3, 224, 224)}
"""Shapes of FP32 that are sent, without the batch axis."""
_BOUNDS = {"1 KB": 0.5, "0.6 MB": 1.0}
_CALLS, _BLOCKS = 50, 10
_TOKENS, _TOKEN_MS = 200, 2.0
_CANCELS, _PATIENCE_S = 20, 10.0
_STREAMS, _SLOW_TOKENS, _SLOW_MS = 500, 20, 500.0
_SERVICE = "/inference.GRPCInferenceService/"
_Infer: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
_LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True, slots=True)
class _Ways:
    """Where calls go: to Triton itself, through the sidecar, which is the process `pid`, or through a bare relay."""

    direct: str
    through: str
    relay: str
    pid: int


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """About three minutes. Raises CannotInstall where no Triton can run."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        running.enter_context(on_cores(CORES))
        found = install()
        for size, shape in SIZES.items():
            dims = ", ".join(map(str, shape))
            Accelerator(_model(size), "pixels", dims, folder / "models").write(found)
        for model in (TICKER, *triton_calls.MODELS):
            (folder / "models" / model).symlink_to(MODELS / model)
        triton = running.enter_context(Triton.start(repository=folder / "models"))
        served = running.enter_context(sidecar(triton.grpc_address, {}))
        at_once = folder / "relay.control"
        at_once.write_bytes(relay.CONTROL.pack(0.0))
        bare = running.enter_context(relayed(triton.grpc_address, at_once))
        ways = _Ways(triton.grpc_address, served.address, bare, served.pid)
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        cases = [_unary(ways, size, rounds) for size in SIZES]
        cases.append(loop.run(_tokens(ways, rounds)))
        cases.append(loop.run(_cancels(ways, folder / "heard")))
        cases.append(loop.run(_many(ways)))
        cases += [_same(ways, call) for call in triton_calls.CALLS]
    return report("drop_in", cases, _targets(cases))


def _model(size: str) -> str:
    return f"tensor_{size.replace(' ', '_').replace('.', '_')}"


def _unary(ways: _Ways, size: str, rounds: int) -> dict[str, Any]:
    message = laid_infer(_model(size), "pixels", np.zeros((1, *SIZES[size]), np.float32))
    p50s: list[dict[str, float]] = []
    with ExitStack() as open_:
        channels = [
            (way, open_.enter_context(_channel(address)))
            for way, address in (("direct", ways.direct), ("through", ways.through), ("relay", ways.relay))
        ]
        for _ in range(rounds):
            taken: dict[str, list[float]] = {way: [] for way, _ in channels}
            for block in range(_BLOCKS):
                for way, channel in channels if block % 2 else reversed(channels):
                    taken[way] += _block(channel, message)
            p50s.append({way: percentile(times, 50) for way, times in taken.items()})
    return {
        "case": f"an ordinary tensor of {size}",
        "kind": "unary",
        "size": size,
        "direct_ms": round(median([p50["direct"] for p50 in p50s]), 3),
        "more_ms": round(median([p50["through"] - p50["direct"] for p50 in p50s]), 3),
        "relay_more_ms": round(median([p50["relay"] - p50["direct"] for p50 in p50s]), 3),
    }


@contextmanager
def _channel(address: str) -> Iterator[_Infer]:
    with grpc.insecure_channel(address, options=_LARGE) as channel:
        yield channel.unary_unary(f"{_SERVICE}ModelInfer")


def _block(infer: _Infer, message: bytes) -> list[float]:
    """Milliseconds of calls one after the other; the first is not counted."""
    taken = []
    for number in range(_CALLS + 1):
        begun = time.perf_counter()
        infer(message)
        if number:
            taken.append(1e3 * (time.perf_counter() - begun))
    return taken


async def _tokens(ways: _Ways, rounds: int) -> dict[str, Any]:
    more, directs = [], []
    for number in range(rounds):
        order = (ways.direct, ways.through) if number % 2 else (ways.through, ways.direct)
        p50 = {address: percentile(await _late_ms(address, _TOKENS, _TOKEN_MS), 50) for address in order}
        more.append(p50[ways.through] - p50[ways.direct])
        directs.append(p50[ways.direct])
    return {
        "case": "tokens of a stream",
        "kind": "tokens",
        "direct_ms": round(median(directs), 3),
        "more_ms": round(median(more), 3),
    }


def _stream(channel: aio.Channel) -> aio.StreamStreamCall[bytes, bytes]:
    begin: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"{_SERVICE}ModelStreamInfer")
    return begin()


async def _late_ms(address: str, count: int, delay_ms: float) -> list[float]:
    """How long each token of a stream was on its way, milliseconds."""
    async with aio.insecure_channel(address, options=_LARGE) as channel:
        stream = _stream(channel)
        await stream.write(laid_tick(count, delay_ms))
        await stream.done_writing()
        late = []
        async for event in stream:
            now_ns = time.monotonic_ns()
            if (tick := Tick.read(event)).sent_ns:
                late.append((now_ns - tick.sent_ns) / 1e6)
        return late


async def _cancels(ways: _Ways, heard: Path) -> dict[str, Any]:
    """How soon the model hears of a stream that its caller has left."""
    took = []
    async with aio.insecure_channel(ways.through, options=_LARGE) as channel:
        for number in range(_CANCELS):
            stream = _stream(channel)
            await stream.write(laid_tick(1_000_000, 20.0, heard))
            for _ in range(3):
                await stream.read()
            begun_ns = time.monotonic_ns()
            stream.cancel()
            took.append((await asyncio.to_thread(_line, heard, number) - begun_ns) / 1e6)
    return {
        "case": f"{_CANCELS} streams that are cancelled",
        "kind": "cancel",
        "p50_ms": round(median(took), 1),
        "worst_ms": round(max(took), 1),
    }


def _line(file: Path, number: int) -> int:
    """The line of this number, once it is there."""
    ends = time.monotonic() + _PATIENCE_S
    while time.monotonic() < ends:
        lines = file.read_text().split() if file.exists() else []
        if len(lines) > number:
            return int(lines[number])
        time.sleep(0.005)
    raise RuntimeError(f"the model did not hear of a cancellation within {_PATIENCE_S:g} s")


async def _many(ways: _Ways) -> dict[str, Any]:
    """Many slow streams at once: tokens that were lost, and the sidecar's memory before, early and late."""
    before = _resident_mb(ways.pid)
    works = [asyncio.create_task(_late_ms(ways.through, _SLOW_TOKENS, _SLOW_MS)) for _ in range(_STREAMS)]
    seconds = _SLOW_TOKENS * _SLOW_MS / 1e3
    await asyncio.sleep(0.4 * seconds)
    early = _resident_mb(ways.pid)
    await asyncio.sleep(0.4 * seconds)
    late = _resident_mb(ways.pid)
    came = await asyncio.gather(*works, return_exceptions=True)
    tokens = sum(len(each) for each in came if isinstance(each, list))
    return {
        "case": f"{_STREAMS} slow streams at once",
        "kind": "many",
        "streams": _STREAMS,
        "tokens": tokens,
        "lost": _STREAMS * _SLOW_TOKENS - tokens,
        "late_p50_ms": round(
            percentile([one for each in came if isinstance(each, list) for one in each], 50), 2
        ),
        "mb_before": before,
        "mb_early": early,
        "mb_late": late,
        "growth": round(late / early - 1, 4),
    }


def _same(ways: _Ways, call: triton_calls.Call) -> dict[str, Any]:
    """Whether a call of an unchanged client gives through the sidecar what it gives at Triton."""
    wanted, found = (call.outcome(address) for address in (ways.direct, ways.through))
    return {"case": call.what, "kind": "client", "of": call.kind, "same": wanted == found}


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError("the kernel tells nothing of the sidecar's memory")


def _targets(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_kind = {case["kind"]: case for case in cases}
    asked = [case for case in cases if case["kind"] == "client"]
    return [
        *[
            at_most(
                f"passing on a tensor of {case['size']}, more at p50, ms",
                case["more_ms"],
                _BOUNDS[case["size"]],
            )
            for case in cases
            if case["kind"] == "unary"
        ],
        at_most("a token on its way, more at p50, ms", by_kind["tokens"]["more_ms"], 0.5),
        at_most(
            "until the model hears that its caller has gone, worst, ms", by_kind["cancel"]["worst_ms"], 100
        ),
        at_least("slow streams at once", by_kind["many"]["streams"], 500),
        at_most("their tokens that were lost", by_kind["many"]["lost"], 0),
        at_most("growth of memory while they run", by_kind["many"]["growth"], 0.02),
        at_most(
            f"of {len(asked)} calls of an unchanged client, those that end otherwise than at Triton",
            sum(not case["same"] for case in asked),
            0,
        ),
    ]
