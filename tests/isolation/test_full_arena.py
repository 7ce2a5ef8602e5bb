"""More work than the arena holds: it waits its turn or is told to come back, and what never fits is told so."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from multimodal.v1 import media_pb2, preprocessor_pb2, preprocessor_pb2_grpc

from inference_client import Client, MediaTooLarge
from testbed.triton import Triton
from tests.isolation.inside import CLIP, MIB, PATIENCE_S, Inside, inside, picture
from tests.running import CHECKPOINTS

pytestmark = pytest.mark.triton

CALLS = 64
SIDE = 448
ARENA = 16 * MIB
AUDIO = {"whisper": "whisper-tiny", "wav2vec2": "wav2vec2-base-960h", "clip": CLIP}


@pytest.fixture(scope="module")
def narrow(triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """16 MiB, which is four slots for a picture of 448², or sixteen for a spectrogram."""
    folder = tmp_path_factory.mktemp("clip-448")
    known = json.loads((CHECKPOINTS / CLIP / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(known | {"size": SIDE, "crop_size": SIDE}))
    settings = (
        f"arena.bytes={ARENA}",
        f"models.large.recipe={folder}",
        "models.large.upstream=sink",
        "models.whisper.upstream=checksum_mel80",
        "models.wav2vec2.upstream=checksum_audio",
        "models.clip.upstream=checksum_fp32",
        "workers=2",
        "threads.image=4",
        "log.level=error",
    )
    with inside(AUDIO, triton.grpc_address, *settings) as it:
        yield it


def wave(seconds: float) -> bytes:
    """Mono at 16 kHz, as WAV."""
    samples = (np.random.default_rng(1).standard_normal(int(16_000 * seconds)) * 3000).astype("<i2").tobytes()
    head = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    head += b"".join(value.to_bytes(size, "little") for value, size in ((1, 2), (1, 2), (16_000, 4)))
    head += b"".join(value.to_bytes(size, "little") for value, size in ((32_000, 4), (2, 2), (16, 2)))
    return head + b"data" + len(samples).to_bytes(4, "little") + samples


async def ended(it: Inside, method: str, kind: type, model: str, media: bytes) -> Counter[str]:
    """How so many calls at once end: "answered", or the status; who is told to come back is told when."""
    async with grpc.aio.insecure_channel(it.address) as channel:
        rpc = getattr(preprocessor_pb2_grpc.PreprocessorStub(channel), method)

        async def call() -> str:
            try:
                answer = await rpc(
                    kind(model=model, media=[media_pb2.Media(inline=media)]), timeout=PATIENCE_S * 2
                )
            except grpc.aio.AioRpcError as error:
                status = rpc_status.from_call(error)
                hints = [each.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for each in status.details]
                return error.code().name if any(hints) else f"{error.code().name} without a hint"
            assert [item.problem.reason for item in answer.items] == [""]
            return "answered"

        return Counter(await asyncio.gather(*(call() for _ in range(CALLS))))


@pytest.mark.parametrize("method", ["Preprocess", "Infer"])
@pytest.mark.parametrize("model", ["large", "whisper"])
async def test_many_large_calls_at_once_are_answered_in_their_turn_or_told_when_to_come_back(
    narrow: Inside, method: str, model: str
) -> None:
    kind = preprocessor_pb2.PreprocessRequest if method == "Preprocess" else preprocessor_pb2.InferRequest
    media = picture(1, 600, 500, "JPEG") if model == "large" else wave(3)
    found = await ended(narrow, method, kind, model, media)
    assert set(found) <= {"answered", "RESOURCE_EXHAUSTED"}
    assert found["answered"] >= CALLS // 2
    assert narrow.crew.deaths_total == 0
    narrow.nothing_left()


def test_what_can_never_fit_is_refused_for_good_and_the_setting_is_named(narrow: Inside) -> None:
    with Client(narrow.address) as client:
        with pytest.raises(MediaTooLarge, match=r"arena\.bytes") as refused:
            client.preprocess("large", [picture(1, 600, 500, "JPEG")] * 8, all_or_nothing=True)
        assert not refused.value.retryable
        with pytest.raises(MediaTooLarge, match=r"arena\.bytes") as refused:
            client.preprocess("wav2vec2", wave(300))
        assert not refused.value.retryable
        assert client.preprocess("clip", picture(1)).tensor().shape == (3, 224, 224)
    narrow.nothing_left()


def test_an_item_that_can_never_fit_does_not_fail_its_neighbours(narrow: Inside) -> None:
    with Client(narrow.address) as client:
        small, large, other = client.preprocess("wav2vec2", [wave(1), wave(300), wave(2)])
    assert (small.problem, other.problem) == (None, None)
    assert isinstance(large.problem, MediaTooLarge)
    assert "item 1" in str(large.problem)
    narrow.nothing_left()
