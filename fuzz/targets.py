"""What is fuzzed: each target takes bytes, and its first line says what must hold of it whatever they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from multimodal.v1 import media_pb2, preprocessor_pb2
from tritonclient.grpc import service_pb2

from bench.mutants import CORPUS, LEASE_S, SPARE, Prepared
from sidecar.deadline import Deadline
from sidecar.edge import receive
from sidecar.edge.open_inference import messages
from sidecar.edge.open_inference.envelope import Envelope
from sidecar.edge.payloads import read_request
from sidecar.entry import Verb
from sidecar.errors import (
    CorruptMedia,
    InvalidInput,
    InvalidRequest,
    MediaTooLarge,
    SidecarError,
    UnsupportedMedia,
)
from sidecar.media import DecodeTarget, ImageInfo, Source
from sidecar.recipes.loader import load_recipe
from sidecar.stages.admit.limits import Limits
from sidecar.stages.decode import decode
from sidecar.stages.probe import AUDIO_FORMATS, IMAGE_FORMATS, probe, sniff
from sidecar.workers.orders import lay_report, read_report, report_number
from sidecar.workers.worker import Done, Job, Outlet
from testbed.hostile.bombs import playlists, references
from testbed.memory import peak, renewed_peak

CRASHES: Final = Path(__file__).parent / "crashes"

# What decode is let leave, bytes: small, so that what goes beyond stands out.
_ROOM: Final = 1 << 22
_LIMITS: Final = Limits(
    image_pixels=_ROOM // 3, decoded_bytes=_ROOM, media_bytes=1 << 20, upload_bytes=1 << 20
)
# Seeds longer than this tell a fuzzer nothing that shorter ones do not.
_LONGEST_SEED: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """`run` fails where a promise is broken; `seeds` are inputs to begin with, `media` whether they are files."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    media: bool = False


# --- media ---


def probed(data: bytes) -> None:
    """Whatever the bytes, only the two bad-media errors; no more memory than is looked at of them; within its lease."""
    _loaded()
    with _bounded(2 * len(data) + SPARE), suppress(UnsupportedMedia, CorruptMedia):
        probe(Source(memoryview(data) if len(data) & 1 else data))


def decoded(data: bytes) -> None:
    """Whatever the bytes, only the two bad-media errors; no more memory than predicted; within its lease."""
    _loaded()
    source = Source(memoryview(data) if len(data) & 1 else data)
    target = DecodeTarget((None, 16_000)[len(data) & 1], _ROOM, (None, 0.2)[len(data) >> 1 & 1])
    with _bounded(4 * _ROOM + 2 * len(data) + SPARE), suppress(UnsupportedMedia, CorruptMedia):
        info = probe(source)
        with suppress(MediaTooLarge):
            _LIMITS.check(source, info, target)
            frames = decode(source, info, target)
            assert 0 < frames.array.nbytes <= _ROOM, "more was decoded than is allowed"
            if isinstance(info, ImageInfo):
                assert frames.array.shape[1::-1] == info.upright_size, "another size than was probed"


def transformed(data: bytes) -> None:
    """Whatever the bytes, tensors or a caller's error; no more memory than predicted; within its lease."""
    with suppress(UnsupportedMedia, CorruptMedia):
        found = _prepared(sniff(Source(data))).outcome(data, len(data))
        assert found.end != "outside", found.words
        assert found.excess <= SPARE, f"{found.excess} bytes more than predicted"
        assert found.cpu_ns < LEASE_S * 1e9, "past its lease"


@cache
def _loaded() -> None:
    """What libraries load at their first use is no input's."""
    for name in (*IMAGE_FORMATS, *AUDIO_FORMATS):
        source = Source(_good(name))
        for rate in (None, 16_000):
            decode(source, probe(source), DecodeTarget(rate))


@cache
def _prepared(name: str) -> Prepared:
    made = Prepared(name)
    for turn in range(6):
        made.outcome(_good(name), turn)  # what is loaded at first use
    return made


def _good(name: str) -> bytes:
    source = (
        path.read_bytes() for folder in ("image", "audio") for path in sorted((CORPUS / folder).iterdir())
    )
    return next(data for data in source if sniff(Source(data)) == name)


def _files() -> Iterator[bytes]:
    for folder in ("image", "audio", "broken"):
        for path in sorted((CORPUS / folder).iterdir()):
            data = path.read_bytes()
            if len(data) <= _LONGEST_SEED:
                yield data
    yield from (*playlists().values(), *references().values())


# --- messages ---


def requested(data: bytes) -> None:
    """Whatever the bytes, a request as protobuf reads it, or one of the errors for a malformed one."""
    for verb, kind in (
        (Verb.PREPROCESS, preprocessor_pb2.PreprocessRequest),
        (Verb.INFER, preprocessor_pb2.InferRequest),
        (Verb.INFER_STREAM, preprocessor_pb2.InferRequest),
    ):
        # By hand from 16 KiB on: behind so much media that is left out again.
        for raw in (data, data + _PADDING):
            with suppress(DecodeError, InvalidRequest):
                request: Any = read_request(kind, raw)
                whole = kind.FromString(raw)
                items = receive.inline(request, _LIMITS)
                assert len(items) == len(whole.media), "other media than protobuf reads"
                for item, meant in zip(items, whole.media, strict=True):
                    assert not isinstance(item, Source) or bytes(item.data) == meant.inline, "other bytes"
                receive.asked(verb, request.message, Deadline(None))
    with suppress(DecodeError, InvalidRequest):
        estimate = preprocessor_pb2.EstimateRequest.FromString(data)
        receive.estimated(estimate, Deadline(None))
        for info in receive.infos(estimate):
            if not isinstance(info, SidecarError):
                with suppress(MediaTooLarge):
                    _LIMITS.check(Source(b""), info)
    with suppress(DecodeError, InvalidRequest):
        receive.sizes(preprocessor_pb2.GetModelRequest.FromString(data))
    receive.facts([("x-media-facts-bin", data)])


_PADDING: Final = preprocessor_pb2.PreprocessRequest(
    media=[media_pb2.Media(inline=bytes(17_000))]
).SerializeToString()


def uploaded(data: bytes) -> None:
    """Whatever messages come in whatever order, an item a place, or an error of the call; all room is given back."""
    room = receive.UploadRoom(1 << 20, 1.0)
    parts = [piece for piece in data.split(b"\xfe\xed") if piece]
    with suppress(DecodeError, InvalidRequest, MediaTooLarge, SidecarError):
        first = preprocessor_pb2.PreprocessRequest.FromString(parts[0] if parts else b"")
        assembly = receive.Assembly(first.media, _LIMITS, room)
        try:
            for piece in parts[1:]:
                assembly.add(media_pb2.Chunk.FromString(piece))
            found = assembly.received()
            assert len(found) == len(first.media), "an item was lost"
        finally:
            assembly.close()
    assert room.held == 0, "room is lost"


def enveloped(data: bytes) -> None:
    """Whatever the bytes, the model and inputs that protobuf would read, or an error for a malformed request."""
    envelope = Envelope.of(data)
    try:
        whole = service_pb2.ModelInferRequest.FromString(data)
    except DecodeError:
        whole = None
    with suppress(InvalidRequest, InvalidInput):
        name = envelope.model()
        assert whole is None or name == whole.model_name, "another model than protobuf reads"
        aimed = envelope.aimed("other", "7")
        if whole is not None:
            whole.model_name, whole.model_version = "other", "7"
            again = service_pb2.ModelInferRequest.FromString(aimed)
            for message in (again, whole):
                message.DiscardUnknownFields()  # such as a name that is a number
            assert again == whole, "another message than protobuf's"
        request = messages.read(envelope)
        for given in request.inputs:
            with suppress(InvalidInput):
                given.tensor()
        envelope.speaks_of("sidecar")


def reported(data: bytes) -> None:
    """Whatever a worker process says, a report within its job's own memory, or ValueError."""
    job = _job()
    with suppress(ValueError):
        _, report = report_number(data)
        done = read_report(report, job)
        for tensor in done.tensors:
            assert job.outlets is not None
            assert tensor.nbytes <= job.outlets[tensor.name].data.nbytes, "a tensor outside its outlet"


@cache
def _job() -> Job:
    recipe = load_recipe(CORPUS.parents[1] / "testbed" / "checkpoints" / "clip-vit-base-patch32", exact=False)
    types = {spec.name: spec.data_type for spec in recipe.outputs}
    outlets = {name: Outlet(0, memoryview(bytearray(4096))) for name in types}
    info = ImageInfo("png", 1, 1, 1, "RGB")
    return Job(Source(b"x"), info, recipe, DecodeTarget(), types, Deadline(None), 0, outlets)


def _requests() -> Iterator[bytes]:
    media = [
        media_pb2.Media(inline=b"abc", name="cat.jpg", content_type="image/jpeg"),
        media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=7)),
        media_pb2.Media(),
    ]
    tensor = media_pb2.Tensor(name="x", shape=[2, -1], data_type=media_pb2.DATA_TYPE_FP32, data=bytes(8))
    parameters = {
        "a": preprocessor_pb2.Parameter(int64_value=3),
        "priority": preprocessor_pb2.Parameter(int64_value=2),
    }
    yield preprocessor_pb2.PreprocessRequest(model="clip", media=media, request_id="r").SerializeToString()
    yield preprocessor_pb2.InferRequest(
        model="clip", media=media[:1], inputs=[tensor], outputs=["y"], parameters=parameters
    ).SerializeToString()
    info = media_pb2.MediaInfo(modality=media_pb2.MODALITY_IMAGE, format="png", encoded_bytes=99)
    sound = media_pb2.MediaInfo(
        modality=media_pb2.MODALITY_AUDIO, audio=media_pb2.AudioInfo(sample_rate=8000)
    )
    yield preprocessor_pb2.EstimateRequest(model="clip", infos=[info, sound]).SerializeToString()


def _uploads() -> Iterator[bytes]:
    media = [media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=6)), media_pb2.Media(inline=b"abc")]
    first = preprocessor_pb2.PreprocessRequest(model="clip", media=media).SerializeToString()
    chunks = [media_pb2.Chunk(media_index=0, data=each).SerializeToString() for each in (b"abc", b"def")]
    yield b"\xfe\xed".join([first, *chunks])
    yield b"\xfe\xed".join([first, media_pb2.Chunk(media_index=9, data=b"x").SerializeToString()])


def _envelopes() -> Iterator[bytes]:
    request = service_pb2.ModelInferRequest(model_name="clip", model_version="1", id="r")
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.inputs.add(name="media", datatype="BYTES", shape=[1])
    request.outputs.add(name="y")
    request.raw_input_contents.extend([bytes(8), b"\3\0\0\0abc"])
    request.parameters["sequence_id"].int64_param = 3
    yield request.SerializeToString()
    typed = service_pb2.ModelInferRequest(model_name="clip")
    typed.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, 2])
    placed = typed.inputs.add(name="z", datatype="FP32", shape=[2])
    placed.parameters["shared_memory_region"].string_param = "sidecar"
    placed.parameters["shared_memory_byte_size"].int64_param = 8
    yield typed.SerializeToString()


def _reports() -> Iterator[bytes]:
    yield lay_report(1, Done((), CorruptMedia("item 0 is damaged", found=1), [], 1.5))
    yield (
        b'{"number": 1, "tensors": [["pixel_values", "FP32", [3, 4, 4]]], "problem": null, '
        b'"marks": [["decode", 1, 2]], "cpu_ms": 1.0, "needed": {}}'
    )


TARGETS: Final[Mapping[str, Target]] = {
    "probe": Target(probed, _files, media=True),
    "decode": Target(decoded, _files, media=True),
    "transform": Target(transformed, _files, media=True),
    "requests": Target(requested, _requests),
    "uploads": Target(uploaded, _uploads),
    "envelope": Target(enveloped, _envelopes),
    "reports": Target(reported, _reports),
}


@contextmanager
def _bounded(nbytes: int) -> Iterator[None]:
    """Fails where the block makes this process grow by more, or takes longer than a lease of CPU time."""
    held = renewed_peak()
    begun = time.process_time()
    yield
    assert time.process_time() - begun < LEASE_S, "past its lease"
    grown = peak() - held
    assert grown <= nbytes, f"{grown} bytes where {nbytes} were predicted"


def format_of(data: bytes) -> str | None:
    """The format of a file, for mutations by its parts; None for what has none."""
    with suppress(UnsupportedMedia, CorruptMedia):
        return sniff(Source(data))
    return None
