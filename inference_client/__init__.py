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

        print(client.verdict())                        # was the GPU kept waiting, by what, and what would help

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
from inference_client.calls import (
    CallOptions,
    EstimateOptions,
    InferOptions,
    PreprocessOptions,
    StreamOptions,
)
from inference_client.client import Client, InferenceStream
from inference_client.connection import Retries
from inference_client.diagnosis import (
    AcceleratorState,
    Advice,
    Cause,
    Diagnosis,
    Finding,
    Fleet,
    Gpu,
    Lane,
    Machine,
    SelfCheck,
    StageLoad,
    StarvationLevel,
    StarvedTime,
    UpstreamVerdict,
    Worker,
)
from inference_client.errors import (
    BadReply,
    CallCancelled,
    CallerError,
    CapacityError,
    CorruptMedia,
    DeadlineExceeded,
    FetchError,
    FetchFailed,
    FetchRefused,
    FetchUnavailable,
    FieldViolation,
    InternalError,
    InvalidInput,
    InvalidRequest,
    MediaError,
    MediaTooLarge,
    MislabelledMedia,
    ModelMismatch,
    Overloaded,
    PermissionDenied,
    ServerUnavailable,
    SetupError,
    ShuttingDown,
    SidecarError,
    TransportError,
    Unaffordable,
    Unauthenticated,
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
from inference_client.hedges import Hedges
from inference_client.identity import Tls, token_file
from inference_client.items import Item, MediaItem, audio, image, link, media
from inference_client.plan import BudgetBound, PlanChange, PlanNumber, ThreadPlan
from inference_client.results import (
    AudioInfo,
    Batch,
    Cost,
    Estimate,
    Finished,
    Grouping,
    ImageInfo,
    Inference,
    ItemEstimate,
    ItemResult,
    MediaInfo,
    Modality,
    Model,
    ModelState,
    ModelTimes,
    Prepared,
    Priority,
    Recipe,
    Reuse,
    StageTimes,
    StreamOutputs,
    TensorSpec,
)

__all__ = [
    "AcceleratorState",
    "Advice",
    "AsyncClient",
    "AsyncInferenceStream",
    "AudioInfo",
    "BadReply",
    "Batch",
    "BudgetBound",
    "CallCancelled",
    "CallOptions",
    "CallerError",
    "CapacityError",
    "Cause",
    "Client",
    "CorruptMedia",
    "Cost",
    "DeadlineExceeded",
    "Diagnosis",
    "Estimate",
    "EstimateOptions",
    "FetchError",
    "FetchFailed",
    "FetchRefused",
    "FetchUnavailable",
    "FieldViolation",
    "Finding",
    "Finished",
    "Fleet",
    "Gpu",
    "Grouping",
    "Hedges",
    "ImageInfo",
    "InferOptions",
    "Inference",
    "InferenceStream",
    "InternalError",
    "InvalidInput",
    "InvalidRequest",
    "Item",
    "ItemEstimate",
    "ItemResult",
    "Lane",
    "Machine",
    "MediaError",
    "MediaInfo",
    "MediaItem",
    "MediaTooLarge",
    "MislabelledMedia",
    "Modality",
    "Model",
    "ModelMismatch",
    "ModelState",
    "ModelTimes",
    "Overloaded",
    "PermissionDenied",
    "PlanChange",
    "PlanNumber",
    "Prepared",
    "PreprocessOptions",
    "Priority",
    "Recipe",
    "Retries",
    "Reuse",
    "SelfCheck",
    "ServerUnavailable",
    "SetupError",
    "ShuttingDown",
    "SidecarError",
    "StageLoad",
    "StageTimes",
    "StarvationLevel",
    "StarvedTime",
    "StreamOptions",
    "StreamOutputs",
    "TensorSpec",
    "ThreadPlan",
    "Tls",
    "TransportError",
    "Unaffordable",
    "Unauthenticated",
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
    "UpstreamVerdict",
    "Worker",
    "WrongItemCount",
    "WrongModality",
    "WrongStream",
    "audio",
    "image",
    "link",
    "media",
    "token_file",
]
