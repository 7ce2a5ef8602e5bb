"""The words that `doctor` and `top` have in common for a verdict, and for a sidecar that gives none.

Pure: from values of `inference_client` to text. What a sidecar said itself is passed on as it was said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from inference_client import (
    AcceleratorState,
    Cause,
    DeadlineExceeded,
    Diagnosis,
    Fleet,
    Gpu,
    Machine,
    Modality,
    SidecarError,
    UpstreamVerdict,
)

# In the order in which they are shown: work, then what is waited for, the nearest to us first, then nobody.
STATES: Final[Mapping[AcceleratorState, str]] = {
    AcceleratorState.BUSY: "executes",
    AcceleratorState.IDLE_PREP: "starved: requests are in preprocessing, and there is nothing else",
    AcceleratorState.IDLE_XFER: "waits for tensors on their way to it",
    AcceleratorState.IDLE_BATCH: "has work in its queue and does not begin it",
    AcceleratorState.HUNG: "has work and gives no sign of life",
    AcceleratorState.IDLE_DEMAND: "nobody asks",
    AcceleratorState.UNKNOWN: "in a state that only a newer version knows",
}
NOTHING_WATCHED: Final = (
    "No model server is watched: none is set (`triton.address`), or none of its models is known yet."
)


def percent(share: float) -> str:
    """A part of the window."""
    return f"{100 * share:.1f} %"


def seconds(span_s: float) -> str:
    """A span, as long as it may be."""
    return f"{span_s:.0f} s" if span_s < 120 else f"{span_s / 60:.0f} min"  # noqa: PLR2004 - two minutes, to the eye


def charged_to(cause: Cause, modality: Modality | None) -> str:
    """What starved time is charged to: "image decode"."""
    return f"{modality} {cause}" if modality else f"{cause}"


def starved_by(verdict: UpstreamVerdict) -> list[tuple[str, float]]:
    """What starved it, the most first, as parts of the window."""
    whole = sum(verdict.states.values())
    causes = sorted(verdict.causes, key=lambda each: -each.seconds)
    return [(charged_to(each.cause, each.modality), each.seconds / whole) for each in causes if whole]


def rates(verdict: UpstreamVerdict) -> str:
    """Rows a second, and how much of the time that somebody asked it was busy."""
    most = "" if verdict.ceiling_rows_per_s is None else f" of at most {verdict.ceiling_rows_per_s:.1f}"
    used = (
        ""
        if verdict.utilisation is None
        else f"; busy {percent(verdict.utilisation)} of the time it was asked"
    )
    return f"{verdict.rows_per_s:.1f} rows/s{most}{used}"


def machine_words(machine: Machine) -> str:
    """Cores: those there are, and who used how many."""
    quota = "" if machine.quota is None else f", of which a quota allows {machine.quota:g}"
    throttled = "" if machine.quota is None else f"; throttled {percent(machine.throttled)} of the time"
    return (
        f"{machine.cores} cores{quota}; front {machine.front:.2f}, workers {machine.workers:.2f}, "
        f"idle {machine.idle:.2f}{throttled}"
    )


def fleet_words(fleet: Fleet) -> str:
    """What is under way, and who may work on it."""
    return (
        f"{fleet.calls} calls; {fleet.queued} items wait, workers have {fleet.running}, model servers {fleet.handed}; "
        f"threads: {fleet.image_threads} image, {fleet.audio_threads} audio, {fleet.express_threads} express"
    )


def gpu_words(gpu: Gpu) -> str:
    """A GPU, as its driver has it."""
    return f"GPU {gpu.index} {gpu.name}: used {percent(gpu.utilisation)} of the time, memory {percent(gpu.memory)}"


def title(diagnosis: Diagnosis, address: str) -> str:
    """Of whom, and over how long."""
    return f"sidecar at {address}, the last {diagnosis.window_s:g} s"


def trouble(error: SidecarError, address: str, patience_s: float) -> str:
    """Why a sidecar gave no verdict, and what to do, in one line."""
    if error.status == "UNIMPLEMENTED":
        words = f"{address} answers, but has no diagnostics: it is an older sidecar, to be updated, or another server"
    elif isinstance(error, DeadlineExceeded) and not error.facts:
        words = (
            f"{address} did not answer within {patience_s:g} s: it is no sidecar, or it is stuck; see its log"
        )
    else:
        words = error.message
    return " ".join(words.split())
