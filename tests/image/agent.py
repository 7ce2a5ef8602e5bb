"""A caller in the pod, on the image's own `inference_client`: asks, and prints what came back as one line of JSON.

    agent.py answers CORPUS MEDIA    every picture and sound, what two real models say, the plan, the metrics
    agent.py drain PICTURE           a call that takes seconds, and another after the sidecar was told to stop

It runs inside the sidecar's image and so has nothing of the project but what is installed there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from inference_client import Client, SidecarError
from inference_client.connection import Retries

ADDRESS = "127.0.0.1:50051"
METRICS = "http://127.0.0.1:9400/metrics"
PATIENCE_S = 60.0


def main(what: str, *paths: str) -> int:
    first, *others = map(Path, paths)
    say(json.dumps(answers(first, *others) if what == "answers" else drain(first)))
    return 0


def say(line: str) -> None:
    """A line for whoever reads this container's output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def answers(corpus: Path, media: Path) -> dict[str, Any]:
    with Client(ADDRESS, timeout=PATIENCE_S) as client:
        ready(client)
        models = {"image": "clip", "audio": "whisper"}
        return {
            "crc32": {
                file.name: int(client.infer(model, file).tensor("crc32").ravel()[0])
                for folder, model in models.items()
                for file in sorted((corpus / folder).iterdir())
            },
            "text": client.infer("ocr", media / "text.jpg").text("text"),
            "speech": client.infer("vad", media / "speech.wav").tensor("speech_probs").ravel().tolist(),
            "plan": {number.name: number.number for number in client.thread_plan().numbers},
            "cores": client.thread_plan().budget_cores,
            "memory_bytes": client.thread_plan().budget_memory_bytes,
            "bounds": [[bound.what, bound.cores] for bound in client.thread_plan().bounds],
            "metrics": metrics(),
        }


def drain(picture: Path) -> dict[str, Any]:
    """Says when the first call is with the model, so that whoever reads it can tell the sidecar to stop."""
    found: dict[str, Any] = {}
    with Client(ADDRESS, timeout=PATIENCE_S, retries=Retries(attempts=1)) as client:
        ready(client)
        before = metrics().get("sidecar_handover_shared_bytes_total", 0.0)

        def call() -> None:
            try:
                found["answered"] = int(client.infer("slow", picture).tensor("crc32").ravel()[0])
            except SidecarError as error:
                found["lost"] = f"{type(error).__name__}: {error}"

        calling = threading.Thread(target=call)
        calling.start()
        while metrics().get("sidecar_handover_shared_bytes_total", 0.0) == before and calling.is_alive():
            time.sleep(0.02)
        say("under way")
        while calling.is_alive() and "refused" not in found:
            try:
                client.preprocess("clip", picture)
                time.sleep(0.05)
            except SidecarError as error:
                found["refused"] = type(error).__name__
        calling.join()
    return found


def ready(client: Client) -> None:
    """Once the sidecar has found every model at the model server."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            if all(model.state == "ready" for model in client.models()):
                return
        except SidecarError:
            pass
        if time.monotonic() > ends:
            raise TimeoutError("the sidecar is not ready")
        time.sleep(0.1)


def metrics() -> dict[str, float]:
    """The metrics without labels."""
    with urllib.request.urlopen(METRICS, timeout=10) as page:
        lines = page.read().decode().splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value, *_ in pairs}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
