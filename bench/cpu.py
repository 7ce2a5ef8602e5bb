"""What a served picture costs in CPU beside the bare work: the sidecar's overhead, as a ratio.

Bare: decode, transform and pack of the same code in this process, on as many threads as the sidecar
has; decode alone beside it. Served: the same pictures through a real channel to a sidecar in a process
of its own, whose CPU time is read from the kernel. Rounds alternate, so that the machine's moods meet
both; medians of five.
"""

from __future__ import annotations

import io
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.report import report
from inference_client import Client
from sidecar.deadline import Deadline
from sidecar.media import DataType, Source
from sidecar.recipes.loader import load_recipe
from sidecar.stages.decode import decode
from sidecar.stages.probe import probe
from sidecar.workers.worker import Job, work
from testbed.install import why_not
from testbed.pictures import noise, ramp
from testbed.sidecar import sidecar_process
from testbed.triton import Triton

CHECKPOINT = Path(__file__).parents[1] / "testbed" / "checkpoints" / "clip-vit-base-patch32"
SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920), "4000x3000": (3000, 4000)}
# Pictures a round: about a second of two cores at each size.
ROUND = {"640x480": 200, "1920x1080": 60, "4000x3000": 12}
ROUNDS = 5
THREADS = 2


def run() -> dict[str, Any]:
    """Measures each size prepared, and, where Triton can run, one delivered; milliseconds of CPU an image."""
    settings = {
        "models.clip.recipe": str(CHECKPOINT),
        "models.clip.upstream": "checksum_fp32",
        "threads.image": str(THREADS),
        "log.level": "warning",
    }
    cases = []
    with ExitStack() as running:
        if (reason := why_not()) is None:
            triton = running.enter_context(Triton.start(models=("checksum_fp32",)))
            settings["triton"] = triton.grpc_address
        sidecar = running.enter_context(sidecar_process(settings))
        client = running.enter_context(Client(sidecar.address))
        cases += [measure(size, "Preprocess", client.preprocess, sidecar.pid) for size in SIZES]
        if reason is None:
            cases.append(measure("1920x1080", "Infer", client.infer, sidecar.pid))
    return report("cpu", cases, [])


def measure(size: str, verb: str, call: Callable[[str, bytes], object], pid: int) -> dict[str, Any]:
    """One size and verb: CPU of the bare work and of the sidecar, an image, and their ratio."""
    data, count = photo(*SIZES[size]), ROUND[size]
    source, recipe = Source(data), load_recipe(CHECKPOINT)
    info, target = probe(source), recipe.decode_target
    job = Job(source, info, recipe, target, {"pixel_values": DataType.FP32}, Deadline(None))
    spent: dict[str, list[float]] = {"decode": [], "bare": [], "served": [], "ratio": []}
    with ThreadPoolExecutor(THREADS) as threads:

        def an_image(once: Callable[[], object], of: int) -> float:
            begun = cpu_ms(of)
            for done in [threads.submit(once) for _ in range(count)]:
                done.result()
            return (cpu_ms(of) - begun) / count

        an_image(partial(call, "clip", data), pid)
        an_image(partial(work, job), os.getpid())
        for _ in range(ROUNDS):
            spent["decode"].append(an_image(partial(decode, source, info, target), os.getpid()))
            spent["bare"].append(an_image(partial(work, job), os.getpid()))
            spent["served"].append(an_image(partial(call, "clip", data), pid))
            spent["ratio"].append(spent["served"][-1] / spent["bare"][-1])
    median = {name: statistics.median(values) for name, values in spent.items()}
    return {
        "case": f"JPEG {size} to CLIP 224, {verb}",
        "encoded_kib": round(len(data) / 1024),
        "decode_cpu_ms": round(median["decode"], 2),
        "bare_cpu_ms": round(median["bare"], 2),
        "served_cpu_ms": round(median["served"], 2),
        "served_over_bare": round(median["ratio"], 3),
    }


def photo(height: int, width: int) -> bytes:
    """A JPEG (4:2:0, quality 90) about as hard to decode as a photograph: slopes, texture, grain."""
    texture = np.asarray(Image.fromarray(noise(height // 8, width // 8)).resize((width, height)), np.int16)
    mixed = ramp(height, width).astype(np.int16) // 2 + texture // 2 + noise(height, width) // np.uint8(24)
    file = io.BytesIO()
    Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def cpu_ms(pid: int) -> float:
    """CPU time that a process has spent, user and system, in milliseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
