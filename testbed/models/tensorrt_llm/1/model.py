"""A stand-in for TensorRT-LLM's `llmapi` model: looks at addresses of pictures as it does, and streams words slowly."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import base64
import time
from collections.abc import Iterator

import numpy as np

from testbed.backend import Arrays, Sender, StreamingModel, response

_TOKEN_S = 0.01
_SCHEME = "data:image/jpeg;base64,"
# JPEG's markers: what each begins with; of a frame (SOF0 to SOF2), behind which its height and width are; of the scan.
_MARK, _FRAMES, _SCAN = 0xFF, (0xC0, 0xC1, 0xC2), 0xDA


class TritonPythonModel(StreamingModel):
    """Looks, and says the prompt back."""

    def stream(self, inputs: Arrays, sender: Sender) -> None:
        arrived_ns = time.monotonic_ns()
        words = [*map(_looked, inputs.get("image_url", ())), *_words(inputs)]
        scheduled_ns = first_ns = time.monotonic_ns()
        whole = [] if _flag(inputs, "streaming") else [" ".join(words)]
        for place, word in enumerate(whole or words):
            if sender.is_cancelled():
                break
            time.sleep(_TOKEN_S * (len(words) if whole else 1))
            now_ns = time.monotonic_ns()
            first_ns = first_ns if place else now_ns
            is_last = place + 1 == len(whole or words)
            asked = _flag(inputs, "sampling_param_return_perf_metrics")
            times = (arrived_ns, scheduled_ns, first_ns, now_ns) if asked else (0, 0, 0, 0)
            sender.send(response(_token(word + ("" if is_last else " "), times, "stop" if is_last else "")))


def _words(inputs: Arrays) -> Iterator[str]:
    """The prompt's words, no more than were asked for."""
    most = int(inputs["sampling_param_max_tokens"][0]) if "sampling_param_max_tokens" in inputs else 1 << 30
    yield from inputs["text_input"][0].decode().split()[:most]


def _flag(inputs: Arrays, name: str) -> bool:
    return name in inputs and bool(inputs[name][0])


def _token(text: str, times: tuple[int, ...], reason: str) -> Arrays:
    names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    told = {name: np.array([at], np.int64) for name, at in zip(names, times, strict=True)}
    texts = {"text_output": text, "finish_reason": reason, "stop_reason": ""}
    return {name: np.array([value.encode()], object) for name, value in texts.items()} | told


def _looked(address: bytes) -> str:
    """What a picture is: its size, and that there is nothing in its file but the picture."""
    text = address.decode()
    if not text.startswith(_SCHEME):
        return f"[{text[:40]}: not fetched]"
    data = base64.b64decode(text.removeprefix(_SCHEME), validate=True)
    at, size, markers = 2, "no picture", set()
    while at + 4 <= len(data) and data[at] == _MARK and data[at + 1] != _SCAN:
        markers.add(data[at + 1])
        if data[at + 1] in _FRAMES:
            height, width = (int.from_bytes(data[at + 5 + 2 * axis :][:2], "big") for axis in (0, 1))
            size = f"{width}x{height}"
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    bare = not markers & {*range(0xE1, 0xF0), 0xFE}
    return f"[{size}{'' if bare else ', with metadata'}]"
