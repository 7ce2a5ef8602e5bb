"""What tests everywhere share: one real Triton with all models of the testbed, and one sidecar before it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from testbed.install import why_not
from testbed.triton import Triton
from tests.running import Running, running

# Which examples are tried is the same every time, so that a change is judged by itself; `make check` tries others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("others", derandomize=False, print_blob=True)
hypothesis.settings.load_profile("same")

# The sidecar's models: their checkpoints, and the testbed's models behind them where the name is another.
_CLIP = "clip-vit-base-patch32"
CHECKPOINTS = {
    "clip": _CLIP,
    "clip_fp16": _CLIP,
    "clip_uint8": _CLIP,
    "siglip": "siglip-base-patch16-224",
    "vit": "vit-base-patch16-224",
    "whisper": "whisper-tiny",
    "whisper_v3": "whisper-large-v3",
    "wav2vec2": "wav2vec2-base-960h",
    "together": _CLIP,
    "qwen2_vl": "qwen2-vl-2b-instruct",
    "prompted": _CLIP,
    "accelerator": _CLIP,
    "failing": _CLIP,
    "streamer": _CLIP,
    "ocr": "ocr",
    "vad": "vad",
    "tensorrt_llm": "qwen2-vl-2b-instruct",
    "multimodal_ensemble": _CLIP,
    "multimodal_encoders": "qwen2-vl-2b-instruct",
    "whisper_bls": "whisper-tiny",
}
UPSTREAMS = {
    "clip": "checksum_fp32",
    "clip_fp16": "checksum_fp16",
    "clip_uint8": "checksum_uint8",
    "siglip": "checksum_fp32",
    "vit": "checksum_fp32",
    "whisper": "checksum_mel80",
    "whisper_v3": "checksum_mel128",
    "wav2vec2": "checksum_audio",
    "together": "checksum_together",
    "qwen2_vl": "patches",
    "prompted": "checksum_prompted",
    "echo": "echo",
}


@pytest.fixture(scope="session")
def triton() -> Iterator[Triton]:
    """The testbed's Triton, or the one at SIDECAR_TRITON. Skips where there is neither."""
    external = os.environ.get("SIDECAR_TRITON")
    if not external and (reason := why_not()) is not None:
        pytest.skip(f"{reason}; set SIDECAR_TRITON=host:port to test against one elsewhere")
    with Triton.start(external=external) as started:
        yield started


@pytest.fixture
def own_triton(triton: Triton) -> Iterator[Triton]:
    """A Triton that the test may kill; it has the streamer only."""
    if os.environ.get("SIDECAR_TRITON"):
        pytest.skip(f"the Triton at {triton.grpc_address} is not ours to kill")
    with Triton.start(models=("streamer",)) as started:
        yield started


@pytest.fixture(scope="session")
def sidecar(triton: Triton) -> Iterator[Running]:
    """A sidecar with every model of the testbed."""
    upstreams = [f"models.{name}.upstream={upstream}" for name, upstream in UPSTREAMS.items()]
    with running(CHECKPOINTS, triton.grpc_address, *upstreams) as started:
        yield started
