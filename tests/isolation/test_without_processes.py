"""`workers: 0` runs the same jobs in the front process: the same answers, to the bit."""

from __future__ import annotations

from inference_client import Client
from tests import corpus
from tests.isolation.inside import CLIP, Inside, inside

MODELS = {
    "clip": CLIP,
    "siglip": "siglip-base-patch16-224",
    "vit": "vit-base-patch16-224",
    "whisper": "whisper-tiny",
    "wav2vec2": "wav2vec2-base-960h",
}


def answers(it: Inside) -> dict[tuple[str, str], bytes | str]:
    """Every tensor of every model and file, or why there is none."""
    found: dict[tuple[str, str], bytes | str] = {}
    with Client(it.address) as client:
        for model in MODELS:
            sound = model in {"whisper", "wav2vec2"}
            names = [*(corpus.SOUNDS if sound else corpus.PICTURES), *corpus.CORRUPT, *corpus.UNSUPPORTED]
            results = [
                result
                for begin in range(0, len(names), 8)
                for result in client.preprocess(
                    model, [corpus.data(name) for name in names[begin : begin + 8]]
                )
            ]
            for name, result in zip(names, results, strict=True):
                found[model, name] = (
                    result.problem.reason
                    if result.problem
                    else b"".join(tensor.tobytes() for _, tensor in sorted(result.tensors.items()))
                )
    it.nothing_left()
    return found


def test_threads_of_the_front_answer_as_worker_processes_do_for_every_picture_and_sound() -> None:
    found = []
    for processes in (0, 2):
        with inside(MODELS, None, f"workers={processes}", "log.level=error") as it:
            assert it.crew.processes == (processes and processes + 1)  # one for small items
            found.append(answers(it))
    assert found[0] == found[1]
    assert sum(isinstance(each, bytes) for each in found[0].values()) > 100
