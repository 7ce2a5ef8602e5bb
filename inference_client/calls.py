"""Turns a verb and its arguments into one RPC: which one, with what messages, and how to read its reply.

Both clients send what is made here and add nothing, so that they cannot drift apart. No transport
and no clock; the disk is touched only where an item is a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message
from multimodal.v1 import media_pb2, preprocessor_pb2

from inference_client import replies
from inference_client.errors import InvalidInput, ModelMismatch, SidecarError
from inference_client.items import Item, MediaItem, as_item, listed
from inference_client.results import Batch, Inference, Model, Prepared, StreamOutputs, TensorSpec
from inference_client.tensors import InputValue, to_tensor

# Unit: bytes of one chunk. A quarter of gRPC's default message limit, so that any server takes it.
CHUNK_BYTES = 2**20

ParameterValue: TypeAlias = bool | int | float | str

ResultT = TypeVar("ResultT")


class CallOptions(TypedDict, total=False):
    """What any call on media may be told.

    all_or_nothing: raise the first failed item's problem instead of answering for its neighbours.
        Default False; always so where one item, not a list, is sent.
    request_id: your own id, echoed in the result and in the sidecar's log. Default "".
    """

    all_or_nothing: bool
    request_id: str


class InferOptions(CallOptions, total=False):
    """What an inference may be told besides.

    outputs: names of the outputs wanted. Default: all of them.
    parameters: handed to the model server as they are, for example {"max_tokens": 64}.
    """

    outputs: Sequence[str]
    parameters: Mapping[str, ParameterValue]


class Outgoing(Iterator[Message]):
    """The messages of an upload, in order. gRPC hides what reading a file raised; `failure` keeps it."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self.failure: OSError | None = None

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except OSError as error:
            self.failure = error
            raise


@dataclass(frozen=True, slots=True)
class Call(Generic[ResultT]):
    """One RPC, to be made once: its name in the service, its request, and what its reply means.

    `model` is the one asked ("": none). `outgoing` is set for an upload and takes the place of
    `request`. `read` takes the reply; of a stream, each event.
    """

    rpc: str
    model: str
    request: Message
    read: Callable[[Any], ResultT]
    outgoing: Outgoing | None = None

    def raise_unread(self) -> None:
        """To be asked first when the call failed: raises the OSError that kept an upload from its file."""
        if self.outgoing is not None and self.outgoing.failure is not None:
            raise self.outgoing.failure


# The upload RPC's own message for each plain request: its first part, and then its chunks.
_Wrapper: TypeAlias = Callable[..., Message]
_Request: TypeAlias = preprocessor_pb2.PreprocessRequest | preprocessor_pb2.InferRequest


@dataclass(frozen=True, slots=True)
class _Media:
    """The items of a request, and whether they came alone rather than in a list."""

    items: tuple[Item, ...]
    alone: bool

    @classmethod
    def of(cls, media: MediaItem | Sequence[MediaItem] | None) -> _Media:
        items, alone = listed(media)
        return cls(tuple(as_item(each) for each in items), alone)

    def messages(self, *, upload: bool) -> list[media_pb2.Media]:
        return [_media_message(item, upload=upload) for item in self.items]

    def chunks(self, wrapper: _Wrapper) -> Iterator[Message]:
        for index, item in enumerate(self.items):
            for piece in item.pieces(CHUNK_BYTES):
                yield wrapper(chunk=media_pb2.Chunk(media_index=index, data=piece))


class Calls:
    """Makes calls. Keeps what it learnt of models, to give plain inputs the types they declare."""

    def __init__(self, upload_threshold: int) -> None:
        self._upload_threshold = upload_threshold
        self._inputs: dict[str, dict[str, TensorSpec]] = {}

    def preprocess(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem],
        *,
        all_or_nothing: bool = False,
        request_id: str = "",
    ) -> Call[Prepared | Batch[Prepared]]:
        what = _Media.of(media)
        upload = self._is_large(what)
        request = preprocessor_pb2.PreprocessRequest(
            model=model,
            media=what.messages(upload=upload),
            all_or_nothing=all_or_nothing or what.alone,
            request_id=request_id,
        )
        read: Callable[[Any], Prepared | Batch[Prepared]] = (
            replies.prepared_one if what.alone else partial(replies.prepared_batch, count=len(what.items))
        )
        if upload:
            return _upload("PreprocessUpload", preprocessor_pb2.PreprocessUploadRequest, request, what, read)
        return Call("Preprocess", model, request, read)

    def infer(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None,
        inputs: Mapping[str, InputValue] | None,
        **options: Unpack[InferOptions],
    ) -> Call[Inference | Batch[Inference]]:
        what = _Media.of(media)
        upload = self._is_large(what)
        request = self._infer_request(model, what, inputs, upload=upload, **options)
        read: Callable[[Any], Inference | Batch[Inference]] = partial(
            replies.inference_one if what.alone else replies.inference_batch, count=len(what.items)
        )
        if upload:
            return _upload("InferUpload", preprocessor_pb2.InferUploadRequest, request, what, read)
        return Call("Infer", model, request, read)

    def infer_stream(
        self,
        model: str,
        media: MediaItem | Sequence[MediaItem] | None,
        inputs: Mapping[str, InputValue] | None,
        read: Callable[[preprocessor_pb2.InferStreamResponse], StreamOutputs | None],
        **options: Unpack[InferOptions],
    ) -> Call[StreamOutputs | None]:
        what = _Media.of(media)
        upload = self._is_large(what)
        request = self._infer_request(model, what, inputs, upload=upload, **options)
        if upload:
            wrapper = preprocessor_pb2.InferStreamUploadRequest
            return _upload("InferStreamUpload", wrapper, request, what, read)
        return Call("InferStream", model, preprocessor_pb2.InferStreamRequest(request=request), read)

    def models(self) -> Call[list[Model]]:
        return Call("ListModels", "", preprocessor_pb2.ListModelsRequest(), replies.models)

    def model(self, name: str) -> Call[Model]:
        return Call("GetModel", name, preprocessor_pb2.GetModelRequest(model=name), _read_model)

    def must_learn(self, model: str, inputs: Mapping[str, InputValue] | None) -> bool:
        """Whether the model's declaration is needed for these inputs and not known yet."""
        return bool(inputs) and model not in self._inputs

    def learn(self, model: Model) -> None:
        """Keeps what the model declares of its inputs."""
        self._inputs[model.name] = {spec.name: spec for spec in model.inputs}

    def doubt(self, model: str, error: SidecarError) -> None:
        """Forgets a model's declaration if the error says that it may have changed."""
        if isinstance(error, (InvalidInput, ModelMismatch)):
            self._inputs.pop(model, None)

    def _is_large(self, what: _Media) -> bool:
        return sum(item.size for item in what.items) > self._upload_threshold

    def _infer_request(
        self,
        model: str,
        what: _Media,
        inputs: Mapping[str, InputValue] | None,
        *,
        upload: bool,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, ParameterValue] | None = None,
        all_or_nothing: bool = False,
        request_id: str = "",
    ) -> preprocessor_pb2.InferRequest:
        declared = self._inputs.get(model, {})
        return preprocessor_pb2.InferRequest(
            model=model,
            media=what.messages(upload=upload),
            inputs=[to_tensor(name, value, declared.get(name)) for name, value in (inputs or {}).items()],
            outputs=outputs,
            all_or_nothing=all_or_nothing or what.alone,
            request_id=request_id,
            parameters={name: _parameter(name, value) for name, value in (parameters or {}).items()},
        )


def _upload(
    rpc: str, wrapper: _Wrapper, request: _Request, what: _Media, read: Callable[[Any], ResultT]
) -> Call[ResultT]:
    first = wrapper(request=request)
    return Call(
        rpc,
        request.model,
        first,
        lambda reply: read(reply.response),
        Outgoing(chain([first], what.chunks(wrapper))),
    )


def _media_message(item: Item, *, upload: bool) -> media_pb2.Media:
    # An empty item has no chunks to follow, so it goes inline, where the server calls it empty.
    source: dict[str, Any] = (
        {"chunked": media_pb2.Chunked(total_bytes=item.size)}
        if upload and item.size
        else {"inline": item.read()}
    )
    return media_pb2.Media(content_type=item.content_type, name=item.name, **source)


def _parameter(name: str, value: ParameterValue) -> preprocessor_pb2.Parameter:
    # bool before int: a bool is an int to Python.
    match value:
        case bool():
            return preprocessor_pb2.Parameter(bool_value=value)
        case int():
            return preprocessor_pb2.Parameter(int64_value=value)
        case float():
            return preprocessor_pb2.Parameter(double_value=value)
        case str():
            return preprocessor_pb2.Parameter(string_value=value)
        case _:
            raise TypeError(f"parameter {name!r} is a bool, int, float or str; found {type(value).__name__}")


def _read_model(reply: preprocessor_pb2.GetModelResponse) -> Model:
    return replies.model(reply.model)
