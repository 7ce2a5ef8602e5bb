"""What agents import: a client of the multimodal preprocessing sidecar, blocking and asyncio.

    from pathlib import Path

    from inference_client import Client, Overloaded, SidecarError, audio

    with Client("127.0.0.1:50051") as client:
        for model in client.models():
            print(model.name, model.modality, model.state)

        answer = client.infer("ocr", "receipt.png", {"language": "en"})
        print(answer.text("text"))
        print(answer.times)                            # a table of milliseconds, stage by stage

        for photo in client.preprocess("clip", sorted(Path("photos").glob("*.jpg"))):
            if photo.problem is None:                  # one bad file leaves its neighbours alone
                print(photo.info.format, photo.tensor("pixel_values").shape)
            else:
                print(photo.problem.reason, photo.problem)

        try:
            client.infer("vad", audio(samples, rate=44_100), timeout=2.0)
        except Overloaded as error:                    # after gRPC's own retries
            print("come back in", error.retry_after_s, "s")
        except SidecarError as error:
            print(error.reason, error.message)

`AsyncClient` has the same verbs to await. See docs/client.md. The package depends on the contract,
grpcio and numpy alone; it must never import the server, and never needs Pillow.
"""

from inference_client.aio import AsyncClient, AsyncInferenceStream
from inference_client.calls import CallOptions, InferOptions, PreprocessOptions
from inference_client.client import Client, InferenceStream
from inference_client.connection import Retries
from inference_client.errors import (
    BadReply,
    CallCancelled,
    CallerError,
    CapacityError,
    CorruptMedia,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidInput,
    InvalidRequest,
    MediaError,
    MediaTooLarge,
    MislabelledMedia,
    ModelMismatch,
    Overloaded,
    ServerUnavailable,
    SetupError,
    ShuttingDown,
    SidecarError,
    TransportError,
    UnknownModel,
    UnsupportedMedia,
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnimplemented,
    WrongItemCount,
    WrongModality,
    WrongStream,
)
from inference_client.items import Item, MediaItem, audio, image, media
from inference_client.results import (
    AudioInfo,
    Batch,
    Cost,
    Finished,
    Grouping,
    ImageInfo,
    Inference,
    ItemResult,
    MediaInfo,
    Modality,
    Model,
    ModelState,
    Prepared,
    Recipe,
    StageTimes,
    StreamOutputs,
    TensorSpec,
)

__all__ = [
    "AsyncClient",
    "AsyncInferenceStream",
    "AudioInfo",
    "BadReply",
    "Batch",
    "CallCancelled",
    "CallOptions",
    "CallerError",
    "CapacityError",
    "Client",
    "CorruptMedia",
    "Cost",
    "DeadlineExceeded",
    "FieldViolation",
    "Finished",
    "Grouping",
    "ImageInfo",
    "InferOptions",
    "Inference",
    "InferenceStream",
    "InternalError",
    "InvalidInput",
    "InvalidRequest",
    "Item",
    "ItemResult",
    "MediaError",
    "MediaInfo",
    "MediaItem",
    "MediaTooLarge",
    "MislabelledMedia",
    "Modality",
    "Model",
    "ModelMismatch",
    "ModelState",
    "Overloaded",
    "Prepared",
    "PreprocessOptions",
    "Recipe",
    "Retries",
    "ServerUnavailable",
    "SetupError",
    "ShuttingDown",
    "SidecarError",
    "StageTimes",
    "StreamOutputs",
    "TensorSpec",
    "TransportError",
    "UnknownModel",
    "UnsupportedMedia",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamFailed",
    "UpstreamModelMissing",
    "UpstreamRejected",
    "UpstreamTimeout",
    "UpstreamUnavailable",
    "UpstreamUnimplemented",
    "WrongItemCount",
    "WrongModality",
    "WrongStream",
    "audio",
    "image",
    "media",
]
