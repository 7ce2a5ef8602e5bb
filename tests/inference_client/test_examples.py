"""The examples that people copy from the README and the guide run as they are written."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from multimodal.v1 import diagnostics_pb2 as pb
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import Client
from inference_client.connection import DEFAULT_ADDRESS
from tests.inference_client.scripted_server import Refusal, ScriptedServer, event
from tests.inference_client.verdicts import upstream, verdict, well

ROOT = Path(__file__).parents[2]
FILES = ("photo.jpg", "receipt.png", "a.jpg", "b.png", "broken.gif")


def example(document: str, heading: str) -> str:
    """The Python block under that heading."""
    text = (ROOT / document).read_text(encoding="utf-8")
    (block,) = re.findall(rf"^## {heading}$[^#]*?^```python$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert isinstance(block, str)
    return block


def tensor(name: str, *shape: int) -> media_pb2.Tensor:
    data = np.zeros(shape, "<f4").tobytes()
    return media_pb2.Tensor(name=name, data_type=media_pb2.DATA_TYPE_FP32, shape=shape, data=data)


def item(*tensors: media_pb2.Tensor) -> media_pb2.ItemResult:
    image = media_pb2.ImageInfo(width=4, height=3, mode="RGB")
    info = media_pb2.MediaInfo(modality=media_pb2.MODALITY_IMAGE, format="jpeg", image=image)
    return media_pb2.ItemResult(info=info, tensors=tensors)


CORRUPT = media_pb2.ItemResult(
    problem=media_pb2.Problem(code=3, reason="CORRUPT_MEDIA", message="item 2 ends early")
)
ANSWER = preprocessor_pb2.InferResponse(
    items=[item(tensor("embedding", 512))], times=media_pb2.StageTimes(decode_ns=10**6, total_ns=10**6)
)
# -1 keeps gRPC from trying again, as a sidecar that is full for long may.
FULL = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_s=1.5, pushback_ms=-1)


@pytest.fixture
def scripted(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The server with the answers that the examples ask for, and the files they name at hand."""
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    model = preprocessor_pb2.Model(
        name="clip", state=preprocessor_pb2.MODEL_STATE_READY, modality=media_pb2.MODALITY_IMAGE
    )
    server.will("ListModels", preprocessor_pb2.ListModelsResponse(models=[model]))
    return server


async def run(code: str, server: ScriptedServer, **names: Any) -> None:
    """Runs the example against `server`: nothing in it is changed but the address."""
    compiled = compile(code.replace(DEFAULT_ADDRESS, server.address), "example", "exec")
    await asyncio.to_thread(exec, compiled, names)


async def test_the_readmes_example_runs_as_written(
    scripted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = tensor("pixel_values", 3, 224, 224)
    scripted.will("Infer", ANSWER, FULL)
    scripted.will(
        "Preprocess", preprocessor_pb2.PreprocessResponse(items=[item(pixels), item(pixels), CORRUPT])
    )
    await run(example("README.md", "Ask it"), scripted)
    told = capsys.readouterr().out
    assert "clip image ready" in told
    assert "'embedding': array(" in told
    assert "decode         1.000  100.0" in told
    assert told.count("jpeg (3, 224, 224)") == 2
    assert "CORRUPT_MEDIA item 2 ends early" in told
    assert told.endswith("come back in 1.5 s\n")
    ((sent,),) = scripted.seen["Preprocess"]
    assert [each.inline for each in sent.media] == [b"a.jpg", b"b.png", b"broken.gif"]


async def test_the_guides_script_runs_as_written(
    scripted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.will("Infer", ANSWER)
    pixels = item(tensor("pixel_values", 3, 224, 224))
    scripted.will("Preprocess", preprocessor_pb2.PreprocessResponse(items=[pixels, CORRUPT]))
    await run(example("docs/client.md", "A script"), scripted)
    told = capsys.readouterr().out
    assert "{'embedding': (512,)}" in told
    assert "jpeg 4 x 3" in told
    assert "(3, 224, 224)" in told
    assert told.endswith("CORRUPT_MEDIA item 2 ends early\n")


async def test_the_guides_estimate_runs_as_written(
    scripted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = media_pb2.Cost(predicted_cpu_ms=7.5, output_bytes=602_112)
    items = [media_pb2.ItemResult(cost=cost, placeholder_tokens=64)] * 2
    full = media_pb2.Problem(
        code=8, reason="OVERLOADED", message="full", retryable=True, metadata={"retry_after_s": "1.5"}
    )
    reply = preprocessor_pb2.EstimateResponse(items=items, cost=cost, wait_s=0.25, refusal=full)
    scripted.will("Estimate", reply)
    with Client(scripted.address) as client:
        await run(example("docs/client.md", "Estimates"), scripted, client=client)
    told = "7.5 602112 64\n" * 2 + "7.5 ms of CPU; an answer in 0.25 s\nOVERLOADED True 1.5\n"
    assert capsys.readouterr().out == told


async def test_the_guides_verdict_runs_as_written(
    scripted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.will("Verdict", verdict(upstream()))
    with Client(scripted.address) as client:
        await run(example("docs/client.md", r"Was the GPU waiting\?"), scripted, client=client)
    assert capsys.readouterr().out.splitlines() == [
        "clip: starved 38% of the time, mostly by image decode.",
        "  set threads.image: 2 -> 3; 61 rows/s would be 98 rows/s: its threads are all in use",
        "  callers: far -> nearer: workers wait for bytes",
        "starved severe 38% decode image",
        "threads.image 3 98.5",
        "callers nearer None",
    ]


async def test_the_guides_watch_runs_as_written(
    scripted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.will(
        "WatchVerdict",
        [pb.WatchVerdictResponse(verdict=verdict(each)) for each in (well(), upstream(), well("later"))],
    )
    document = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python$\n(with contextlib.*?)^```$", document, re.MULTILINE | re.DOTALL)
    with Client(scripted.address) as client:
        await run(block, scripted, client=client, contextlib=contextlib)
    told = capsys.readouterr().out
    assert told.startswith("clip: starved 38% of the time")
    assert "later" not in told


async def test_the_guides_stream_runs_as_written(
    scripted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    word = media_pb2.Tensor(
        name="text", data_type=media_pb2.DATA_TYPE_BYTES, shape=[1], data=b"\5\0\0\0a cat"
    )
    scripted.will("GetModel", preprocessor_pb2.GetModelResponse())
    scripted.will(
        "InferStream",
        [
            event(prepared=preprocessor_pb2.Prepared(items=[item()])),
            event(outputs=preprocessor_pb2.StreamOutputs(outputs=[word])),
            event(finished=preprocessor_pb2.Finished(first_output_ns=2_000_000, responses=1)),
        ],
    )
    with Client(scripted.address) as client:
        await run(example("docs/client.md", "Streams"), scripted, client=client)
    assert capsys.readouterr().out.startswith("a cat2.0 ms to the first output\n")
