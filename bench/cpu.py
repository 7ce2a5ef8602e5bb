"""What a served picture costs in CPU beside the bare work: the sidecar's overhead, as a ratio.

Bare: decode, transform and pack of the same code in this process, on as many threads as the sidecar
has. Served: the same pictures through a real channel to a sidecar in a process of its own, whose CPU
time is read from the kernel. Rounds alternate, so that the machine's moods meet both; medians of five.
"""

from __future__ import annotations

import io
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.report import report
from inference_client import Client
from sidecar.deadline import Deadline
from sidecar.media import DataType, DecodeTarget, Source
from sidecar.recipes.loader import load_recipe
from sidecar.stages.probe import probe
from sidecar.workers.worker import Job, work
from testbed.pictures import noise, ramp
from testbed.sidecar import sidecar_process

CHECKPOINT = Path(__file__).parents[1] / "testbed" / "checkpoints" / "clip-vit-base-patch32"
SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920), "4000x3000": (3000, 4000)}
# Pictures a round: about a second of two cores at each size.
ROUND = {"640x480": 200, "1920x1080": 60, "4000x3000": 12}
ROUNDS = 5
THREADS = 2


def run() -> dict[str, Any]:
    """Measures each size; times in milliseconds of CPU an image."""
    settings = {"models.clip.recipe": str(CHECKPOINT), "threads.image": str(THREADS), "log.level": "warning"}
    with sidecar_process(settings) as sidecar, Client(sidecar.address) as client:
        cases = [case(size, client, sidecar.pid) for size in SIZES]
    return report("cpu", cases, [])


def case(size: str, client: Client, pid: int) -> dict[str, Any]:
    """One size: CPU of the bare work and of the sidecar, an image, and their ratio."""
    data, count = photo(*SIZES[size]), ROUND[size]
    recipe = load_recipe(CHECKPOINT)
    source = Source(data)
    types = {"pixel_values": DataType.FP32}
    job = Job(source, probe(source), recipe, DecodeTarget(), types, Deadline(None))
    with ThreadPoolExecutor(THREADS) as threads:

        def many(once: Callable[[], object]) -> None:
            for done in [threads.submit(once) for _ in range(count)]:
                done.result()

        def ask() -> object:
            return client.preprocess("clip", data)

        bare, served, ratios = [], [], []
        many(ask)
        many(lambda: work(job))
        for _ in range(ROUNDS):
            begun = cpu_ms(os.getpid())
            many(lambda: work(job))
            bare.append((cpu_ms(os.getpid()) - begun) / count)
            begun = cpu_ms(pid)
            many(ask)
            served.append((cpu_ms(pid) - begun) / count)
            ratios.append(served[-1] / bare[-1])
    return {
        "case": f"JPEG {size} to CLIP 224, Preprocess",
        "encoded_kib": round(len(data) / 1024),
        "bare_cpu_ms": round(statistics.median(bare), 3),
        "served_cpu_ms": round(statistics.median(served), 3),
        "served_over_bare": round(statistics.median(ratios), 3),
        "efficiency": round(1 / statistics.median(ratios), 3),
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
