"""Ordinary work in the sandbox and outside it: every file of the corpus, good and broken, by every recipe.

    python -m tests.workers.sandbox.working

Warms up as the nursery does, then forks a process that is confined as a worker and one that is not; each does all jobs
on two threads. Prints one line of JSON: how many jobs there were, and those whose outcomes differ.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sidecar.deadline import Deadline
from sidecar.errors import SidecarError
from sidecar.media import ImageInfo, MediaInfo, Modality, Source
from sidecar.observe.logs import LogConfig, set_up
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages import fourier, kernels, unfilter
from sidecar.stages.admit.limits import Limits
from sidecar.stages.probe import probe
from sidecar.workers.sandbox.config import SandboxConfig
from sidecar.workers.sandbox.layers import Sandbox
from sidecar.workers.worker import Done, Job, work
from tests.running import CHECKPOINTS

CORPUS = Path(__file__).parents[2] / "corpus"
FOLDERS = ("image", "audio", "broken")
THREADS = 2

Asked = tuple[str, Source, MediaInfo, bytes]
"""A job: its name, media, facts, and recipe as it crosses to workers."""


def jobs() -> Iterator[Asked]:
    """All that is let in. Recipes are unpickled by who works, as workers do."""
    recipes = {folder.name: load_recipe(folder) for folder in sorted(CHECKPOINTS.iterdir())}
    for path in sorted(path for folder in FOLDERS for path in (CORPUS / folder).iterdir()):
        source = Source(path.read_bytes(), label=path.name)
        try:
            info = probe(source)
            Limits().check(source, info)
        except SidecarError:
            continue
        for model, recipe in recipes.items():
            if isinstance(info, ImageInfo) == (recipe.modality is Modality.IMAGE):
                yield f"{path.name} for {model}", source, info, pickle.dumps(recipe)


def told(done: Done) -> str:
    if done.problem is not None:
        return f"{type(done.problem).__name__}: {done.problem.message}"
    return " ".join(f"{tensor.name} {tensor.shape} {zlib.crc32(tensor.data)}" for tensor in done.tensors)


def worked(asked: list[Asked]) -> dict[str, str]:
    """Outcomes by the jobs' names."""
    outcomes: dict[str, str] = {}
    begun = threading.Event()

    def run(mine: list[Asked]) -> None:
        begun.wait()
        for name, source, info, laid in mine:
            recipe: Recipe = pickle.loads(laid)
            types = {output.name: output.data_type for output in recipe.outputs}
            target = recipe.decode_target(info)
            outcomes[name] = told(work(Job(source, info, recipe, target, types, Deadline(None))))

    threads = [threading.Thread(target=run, args=(asked[first::THREADS],)) for first in range(THREADS)]
    for thread in threads:
        thread.start()
    if SANDBOX:
        SANDBOX[0].shut()
    begun.set()
    for thread in threads:
        thread.join()
    return outcomes


SANDBOX: list[Sandbox] = []


def forked(asked: list[Asked], *, confined: bool) -> dict[str, str]:
    """Outcomes in a process of its own; none of those after its end, where it ends early."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            if confined:
                told_of = SandboxConfig().confinement(memory_bytes=4 << 30, file_bytes=Limits().media_bytes)
                SANDBOX.append(Sandbox(told_of, THREADS))
                SANDBOX[0].enter((theirs,))
            laid = memoryview(json.dumps(worked(asked)).encode())
            while laid:
                laid = laid[os.write(theirs, laid) :]
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as found:
        text = found.read()
    os.waitpid(pid, 0)
    outcomes: dict[str, str] = json.loads(text or "{}")
    return outcomes


def main() -> dict[str, object]:
    set_up(LogConfig(level="error"))
    kernels.warm()
    fourier.warm()
    unfilter.warm()
    asked = list(jobs())
    free, confined = (forked(asked, confined=confined) for confined in (False, True))
    different = {name: [free.get(name), confined.get(name)] for name, *_ in asked}
    return {
        "jobs": len(asked),
        "different": {
            name: pair for name, pair in different.items() if pair[0] is None or pair[0] != pair[1]
        },
    }


if __name__ == "__main__":
    json.dump(main(), sys.stdout)
