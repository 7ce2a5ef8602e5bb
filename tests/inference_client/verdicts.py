"""Verdicts as a sidecar could tell them, for whoever reads them: every field of the contract has a value of its own."""

from __future__ import annotations

from typing import Any

from multimodal.v1 import diagnostics_pb2 as pb
from multimodal.v1 import media_pb2

IMAGE, AUDIO = media_pb2.MODALITY_IMAGE, media_pb2.MODALITY_AUDIO

# Seconds of ten.
STATES = {
    pb.ACCELERATOR_STATE_BUSY: 5.0,
    pb.ACCELERATOR_STATE_HUNG: 0.0,
    pb.ACCELERATOR_STATE_IDLE_BATCH: 0.5,
    pb.ACCELERATOR_STATE_IDLE_XFER: 0.25,
    pb.ACCELERATOR_STATE_IDLE_PREP: 3.75,
    pb.ACCELERATOR_STATE_IDLE_DEMAND: 0.5,
}
THREADS = pb.Advice(
    setting="threads.image",
    present="2",
    proposed="3",
    rows_per_s=61.25,
    then_rows_per_s=98.5,
    why="its threads are all in use",
)
CALLERS = pb.Advice(setting="callers", present="far", proposed="nearer", why="workers wait for bytes")


def upstream(name: str = "clip", **more: Any) -> pb.UpstreamVerdict:
    """One that is starved by the decoding of pictures, unless told otherwise."""
    fields: dict[str, Any] = {
        "upstream": name,
        "models": ["clip", "clip_fast"],
        "finding": pb.FINDING_STARVED,
        "level": pb.STARVATION_LEVEL_SEVERE,
        "cause": pb.CAUSE_DECODE,
        "modality": IMAGE,
        "summary": f"{name}: starved 38% of the time, mostly by image decode.",
        "alarm": True,
        "alarm_for_s": 12.5,
        "starved": 0.375,
        "underfilled": 0.125,
        "utilisation": 0.526,
        "states": [pb.StateTime(state=state, seconds=seconds) for state, seconds in STATES.items()],
        "causes": [
            pb.StarvedTime(cause=pb.CAUSE_DECODE, modality=IMAGE, seconds=2.75),
            pb.StarvedTime(cause=pb.CAUSE_THROTTLED, seconds=1.0),
        ],
        "advice": [THREADS, CALLERS],
        "rows_per_s": 61.25,
        "ceiling_rows_per_s": 120.5,
        "counted": True,
        "note": "the driver says 80% and the accounts 50%",
    }
    return pb.UpstreamVerdict(**(fields | more))


def well(name: str = "vit", **more: Any) -> pb.UpstreamVerdict:
    """One whose accelerator is the limit, unless told otherwise."""
    fields: dict[str, Any] = {
        "upstream": name,
        "models": [name],
        "finding": pb.FINDING_ACCELERATOR,
        "level": pb.STARVATION_LEVEL_NONE,
        "summary": f"{name}: the accelerator is the limit, busy 97% of the time.",
        "utilisation": 0.97,
        "states": [
            pb.StateTime(state=pb.ACCELERATOR_STATE_BUSY, seconds=9.7),
            pb.StateTime(state=pb.ACCELERATOR_STATE_IDLE_DEMAND, seconds=0.3),
        ],
        "rows_per_s": 9.5,
    }
    return pb.UpstreamVerdict(**(fields | more))


def quiet(name: str = "ocr") -> pb.UpstreamVerdict:
    """One that nobody asks."""
    return well(
        name,
        finding=pb.FINDING_NO_DEMAND,
        summary=f"{name}: nobody asks enough of it; it is busy 0% of the time and waits for nobody.",
        utilisation=None,
        states=[pb.StateTime(state=pb.ACCELERATOR_STATE_IDLE_DEMAND, seconds=10.0)],
        rows_per_s=0.0,
    )


def verdict(*upstreams: pb.UpstreamVerdict, **more: Any) -> pb.VerdictResponse:
    """The verdicts, and a picture in which everything is something."""
    fields: dict[str, Any] = {
        "window_s": 10.0,
        "upstreams": upstreams,
        "stages": [
            pb.StageLoad(stage="admit", modality=IMAGE, seconds=40.0),
            pb.StageLoad(stage="decode", modality=IMAGE, seconds=15.0),
            pb.StageLoad(stage="decode", modality=AUDIO, seconds=2.5),
            pb.StageLoad(stage="deliver", seconds=1.0),
        ],
        "lanes": [
            pb.Lane(modality=IMAGE, cost_class=1, queued=7, queued_cpu_s=0.075),
            pb.Lane(modality=AUDIO, cost_class=3),
        ],
        "fleet": pb.Fleet(
            processes=3,
            image_threads=2,
            audio_threads=1,
            express_threads=4,
            calls=11,
            queued=7,
            running=5,
            handed=6,
            workers=[pb.Worker(pid=4711, cores=0.95), pb.Worker(pid=4712, cores=0.55)],
            sandbox="rlimits, seccomp; not here: landlock (no such kernel)",
        ),
        "machine": pb.Machine(cores=8, quota=2.5, front=0.25, workers=1.5, idle=5.75, throttled=0.125),
        "gpus": [pb.Gpu(index=0, name="NVIDIA H200", utilisation=0.8, memory=0.625)],
    }
    return pb.VerdictResponse(**(fields | more))


CHECKED = pb.SelfCheckResponse(
    upstream="clip",
    live_rows_per_s=61.0,
    fed_rows_per_s=100.0,
    starved_by_rates=0.39,
    starved_by_accounts=0.375,
    agree=True,
    summary="clip answered 61.0 rows/s, and 100.0 while it was fed; the two agree.",
)
