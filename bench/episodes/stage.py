"""What episodes are played on: the real Triton with emulated accelerators, and sidecars before it: one under a quota
that can be set, and one whose way to Triton can be made long.

All on the same two cores, callers included. It is started once and ended with the stage; controls are set anew by
every episode.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from grpc import aio
from multimodal.v1 import diagnostics_pb2, diagnostics_pb2_grpc

from bench.episodes import relay
from bench.episodes.accelerator import Accelerator, trace_flags
from bench.episodes.callers import Load, Noted, call_on
from bench.episodes.quota import Quota, quota
from bench.ground import Served, started
from bench.processes import CAREFUL_ENVIRONMENT, PROJECT, on_cores, server
from bench.rig import CORES
from bench.sidecars import CHECKPOINT, clip
from bench.sinks import kind
from testbed.install import install
from testbed.triton import Triton

PICTURES, LARGE, SPEECH, DELAYED = "pictures", "large", "speech", "delayed"
"""The emulated accelerators: CLIP's pictures; the same at six times the side, for which most work is to pack; speech as
SeamlessM4T takes it, for which most is transform; and pictures again behind a batch delay.
"""
LARGE_SIDE = 1344
_SEAMLESS = {
    "feature_extractor_type": "SeamlessM4TFeatureExtractor",
    "feature_size": 80,
    "num_mel_bins": 80,
    "sampling_rate": 16_000,
    "stride": 2,
    "padding_value": 0.0,
}
BATCH_DELAY_MS = 40.0
NEAR, FAR = "near", "far"
"""The sidecars: in the model server's own pod, and a relay away from it."""
_LARGE = [("grpc.max_receive_message_length", -1)]
_LIVE = "/inference.GRPCInferenceService/ServerLive"
_PING_S = 0.1


@dataclass(frozen=True, slots=True)
class Sight:
    """What a sidecar said of an accelerator, and when that came."""

    at_ns: int
    told: diagnostics_pb2.UpstreamVerdict


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs. `loop` is the callers'; `triton` is the model server's address; `trace` is that server's, complete
    once the stage has ended; `kind` is what accelerators are made of.
    """

    loop: asyncio.Runner
    sidecars: Mapping[str, Served]
    triton: str
    accelerators: Mapping[str, Accelerator]
    quota: Quota
    relay_control: Path
    trace: Path
    kind: str

    def hold_up(self, delay_ms: float) -> None:
        """Every inference of the far sidecar is held up so long on its way from now on."""
        with self.relay_control.open("r+b") as file, mmap.mmap(file.fileno(), relay.CONTROL.size) as control:
            control[:] = relay.CONTROL.pack(delay_ms)

    def allow(self, cores: float | None) -> None:
        """The near sidecar may use so many cores from now on; None: all there are."""
        self.quota.allow(cores, self.sidecars[NEAR].pid)

    def calm(self) -> None:
        """Takes every fault back."""
        self.hold_up(0.0)
        self.allow(None)
        for each in self.accelerators.values():
            each.take(0.5)

    async def rate(self, load: Load, seconds: float, sidecar: str = NEAR) -> float:
        """Calls a second that are answered while the accelerator takes no time."""
        noted, ends = Noted(), time.monotonic() + seconds
        await call_on(self.sidecars[sidecar].address, load, noted, lambda: time.monotonic() > ends)
        times = sorted(noted.answered.values())
        late = [each for each in times if each > times[0] + (times[-1] - times[0]) // 4]
        return (len(late) - 1) / (late[-1] - late[0]) * 1e9

    @asynccontextmanager
    async def round_trips(self) -> AsyncIterator[list[int]]:
        """Nanoseconds that small calls to the model server take, ten a second, as long as the block lasts."""
        taken: list[int] = []
        async with aio.insecure_channel(self.triton) as channel:
            is_live: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_LIVE)

            async def ping() -> None:
                while True:
                    begun = time.monotonic_ns()
                    await is_live(b"")
                    taken.append(time.monotonic_ns() - begun)
                    await asyncio.sleep(_PING_S)

            pinging = asyncio.create_task(ping())
            try:
                yield taken
            finally:
                pinging.cancel()
                await asyncio.gather(pinging, return_exceptions=True)

    @asynccontextmanager
    async def watched(self, upstream: str, sidecar: str = NEAR) -> AsyncIterator[list[Sight]]:
        """What is said of an accelerator, twice a second, as long as the block lasts."""
        sights: list[Sight] = []
        async with aio.insecure_channel(self.sidecars[sidecar].address, options=_LARGE) as channel:
            stub = diagnostics_pb2_grpc.DiagnosticsStub(channel)

            async def watch() -> None:
                request = diagnostics_pb2.WatchVerdictRequest(window_s=2.0)
                async for told in stub.WatchVerdict(request):
                    sights.extend(
                        Sight(time.monotonic_ns(), each)
                        for each in told.verdict.upstreams
                        if each.upstream == upstream
                    )

            watching = asyncio.create_task(watch())
            try:
                yield sights
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def ask(
        self, upstream: str, window_s: float, sidecar: str = NEAR
    ) -> diagnostics_pb2.VerdictResponse:
        """The verdict on an accelerator over a window until now, with the picture around it."""
        async with aio.insecure_channel(self.sidecars[sidecar].address, options=_LARGE) as channel:
            stub = diagnostics_pb2_grpc.DiagnosticsStub(channel)
            request = diagnostics_pb2.VerdictRequest(window_s=window_s, upstream=upstream)
            told: diagnostics_pb2.VerdictResponse = await stub.Verdict(request)
            return told


def checkpoints(folder: Path) -> dict[str, Path]:
    """Each accelerator's model directory, those that the testbed has not made in the folder."""
    speech = folder / "seamless"
    speech.mkdir()
    (speech / "preprocessor_config.json").write_text(json.dumps(_SEAMLESS))
    return {
        PICTURES: CHECKPOINT,
        DELAYED: CHECKPOINT,
        LARGE: clip(folder, LARGE_SIDE),
        SPEECH: speech,
    }


@contextmanager
def sidecar(address: str, recipes: Mapping[str, Path], file: str = "", **more: str) -> Iterator[Served]:
    """A sidecar before the model server at this address, as its user starts it, but that nothing is kept of media.

    `more` are settings, and so is what the file has.
    """
    settings = {
        "triton": address,
        "log.level": "error",
        "cache.enabled": "false",
        **{f"models.{name}.recipe": str(path) for name, path in recipes.items()},
        **more,
    }
    command = [sys.executable, "-m", "sidecar", "serve", *(("--config", file) if file else ())]
    with started(command, settings, set_by=("--set",)) as running:
        yield running


@contextmanager
def accelerators(folder: Path) -> Iterator[tuple[Triton, dict[str, Accelerator], str]]:
    """A Triton with all emulated accelerators, which traces to `trace` in the folder; and what they are made of."""
    found = install()
    made = {
        each.name: each
        for each in (
            Accelerator(PICTURES, "pixel_values", "3, 224, 224", folder / "models"),
            Accelerator(LARGE, "pixel_values", f"3, {LARGE_SIDE}, {LARGE_SIDE}", folder / "models"),
            Accelerator(SPEECH, "input_features", "-1, 160", folder / "models"),
            Accelerator(DELAYED, "pixel_values", "3, 224, 224", folder / "models", int(BATCH_DELAY_MS * 1e3)),
        )
    }
    for each in made.values():
        each.write(found)
    with Triton.start(repository=folder / "models", flags=trace_flags(folder / "trace")) as triton:
        yield triton, made, kind(found)


@contextmanager
def stage(folder: Path, **near_has: str) -> Iterator[Stage]:
    """Starts everything, and ends it; the model server's trace is left in the folder. `near_has` are further settings
    of the near sidecar.

    Raises CannotInstall or TritonFailed where no Triton can run.
    """
    with ExitStack() as running:
        running.enter_context(on_cores(CORES))
        triton, made, kind_ = running.enter_context(accelerators(folder))
        recipes = checkpoints(folder)
        control = folder / "relay.control"
        control.write_bytes(relay.CONTROL.pack(0.0))
        way = running.enter_context(relayed(triton.grpc_address, control))
        limit = running.enter_context(quota())
        with limit.starting():
            near = running.enter_context(sidecar(triton.grpc_address, recipes, **near_has))
        far = running.enter_context(sidecar(way, recipes))
        loop = running.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        set_up = Stage(
            loop=loop,
            sidecars={NEAR: near, FAR: far},
            triton=triton.grpc_address,
            accelerators=made,
            quota=limit,
            relay_control=control,
            trace=folder / "trace",
            kind=kind_,
        )
        set_up.calm()
        yield set_up


@contextmanager
def relayed(upstream: str, control: Path) -> Iterator[str]:
    """A relay's address."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "relay.sock"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "bench.episodes.relay",
            f"unix:{socket}",
            upstream,
            control,
        ]
        environment = {**CAREFUL_ENVIRONMENT, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'protos'}"}
        with server(command, socket.exists, environment=environment):
            yield f"unix:{socket}"
