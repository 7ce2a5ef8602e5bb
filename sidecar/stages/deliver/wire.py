"""The KServe v2 messages, to and from the nouns of this package. Pure.

Requests are laid by hand after their header: protobuf serialises names and shapes, and the tensors
follow as the last field, straight from the buffers that hold them. That is one copy of the payload
where the generated classes make three (into the message, out of it, and out of a memoryview), and it
is valid protobuf: `raw_input_contents` has the highest field number, so the bytes are the same.

A tensor that lies in the arena has no bytes in a message at all, only the place where they are: an
entry of `raw_input_contents` stands for each of the *other* inputs, in their order, and an output that
was asked for there comes back without contents.

An answer's tensors may be raw or typed or in the arena; whichever, nothing leaves here whose bytes
contradict its type and shape, because everything after this point trusts them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import model_config_pb2, service_pb2

from sidecar.errors import UpstreamFailed
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.observe.starvation import Counters
from sidecar.stages.deliver.elements import encode, fault
from sidecar.stages.deliver.faults import of_stream, quote
from sidecar.stages.deliver.upstream import Answer, Call, ParameterValue, Signature, Slot

Parsed = TypeVar("Parsed", bound=Message)

SERVICE = "/inference.GRPCInferenceService/"
WANT_FINAL = "triton_enable_empty_final_response"
IS_FINAL = "triton_final_response"

# Field 7, `raw_input_contents`, of wire type 2 (a length and that many bytes).
_RAW_TAG = bytes([7 << 3 | 2])

# Which field of InferTensorContents holds a type's elements, and what its elements are; FP16 and BF16
# have none and must be raw. The field of BYTES needs no type of numpy's.
_TYPED: Mapping[DataType, tuple[str, str]] = MappingProxyType(
    {
        DataType.BOOL: ("bool_contents", "?"),
        DataType.INT8: ("int_contents", "i4"),
        DataType.INT16: ("int_contents", "i4"),
        DataType.INT32: ("int_contents", "i4"),
        DataType.INT64: ("int64_contents", "i8"),
        DataType.UINT8: ("uint_contents", "u4"),
        DataType.UINT16: ("uint_contents", "u4"),
        DataType.UINT32: ("uint_contents", "u4"),
        DataType.UINT64: ("uint64_contents", "u8"),
        DataType.FP32: ("fp32_contents", "f4"),
        DataType.FP64: ("fp64_contents", "f8"),
        DataType.BYTES: ("bytes_contents", ""),
    }
)
# The configuration's words differ from the protocol's in a prefix and in this one.
_ALIASES: Mapping[str, str] = MappingProxyType({"STRING": "BYTES"})
# In this order: a bool is an int.
_PARAMETER_FIELDS: tuple[tuple[type, str], ...] = (
    (bool, "bool_param"),
    (int, "int64_param"),
    (float, "double_param"),
    (str, "string_param"),
)


_REGION, _OFFSET, _BYTE_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
_NOWHERE: Mapping[str, Slot] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Laid:
    """A serialised request; of the inputs' bytes, `copied` are in it and `shared` lie in the arena."""

    message: bytes
    copied: int
    shared: int


def lay_request(
    call: Call,
    *,
    region: str | None = None,
    into: Mapping[str, Slot] = _NOWHERE,
    want_final: bool = False,
) -> Laid:
    """A call as a serialised ModelInferRequest.

    With `region`, the name that the model server knows the arena by, inputs that lie there are told by
    their place. `into` are the slots that outputs are to be written to, by the outputs' names; the names
    of all outputs must then be in `call.outputs`, for a server leaves out what is not named beside others.
    `want_final` asks for an empty last response, without which a decoupled model's end is not told.
    """
    shared = [region is not None and tensor.at is not None and tensor.nbytes > 0 for tensor in call.inputs]
    header = service_pb2.ModelInferRequest(
        model_name=call.model,
        model_version=call.version,
        id=call.request_id,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=tensor.name,
                datatype=tensor.data_type.value,
                shape=tensor.shape,
                parameters=_place(region, tensor.at or 0, tensor.nbytes) if lies_there else None,
            )
            for tensor, lies_there in zip(call.inputs, shared, strict=True)
        ],
        outputs=[
            service_pb2.ModelInferRequest.InferRequestedOutputTensor(
                name=name,
                parameters=_place(region, into[name].offset, into[name].view.nbytes)
                if name in into
                else _classes(call.classes.get(name, 0)),
            )
            for name in call.outputs
        ],
        parameters={name: _parameter(value) for name, value in call.parameters.items()},
    )
    if want_final:
        header.parameters[WANT_FINAL].bool_param = True
    parts: list[bytes | memoryview] = [header.SerializeToString()]
    copied = 0
    for tensor, lies_there in zip(call.inputs, shared, strict=True):
        if not lies_there:
            parts += (_RAW_TAG, varint(tensor.nbytes), tensor.data)
            copied += tensor.nbytes
    return Laid(b"".join(parts), copied, sum(tensor.nbytes for tensor in call.inputs) - copied)


def _place(region: str | None, offset: int, nbytes: int) -> dict[str, service_pb2.InferParameter]:
    return {
        _REGION: service_pb2.InferParameter(string_param=region),
        _OFFSET: service_pb2.InferParameter(int64_param=offset),
        _BYTE_SIZE: service_pb2.InferParameter(int64_param=nbytes),
    }


def _classes(count: int) -> dict[str, service_pb2.InferParameter] | None:
    """That an output is wanted as its so many highest classes (Triton's extension_classification); 0 for not."""
    return {"classification": service_pb2.InferParameter(int64_param=count)} if count else None


def varint(number: int) -> bytes:
    """A number from 0 as protobuf writes it: seven bits a byte, the lowest first."""
    parts = bytearray()
    while number > 0x7F:  # noqa: PLR2004  # the seven bits
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def lay_question(model: str, version: str) -> bytes:
    """A serialised ModelMetadataRequest; ModelConfigRequest has the same fields."""
    laid: bytes = service_pb2.ModelMetadataRequest(name=model, version=version).SerializeToString()
    return laid


def read_server(message: bytes) -> tuple[str, str]:
    """The name and the version of a serialised ServerMetadataResponse; raises DecodeError where it is none."""
    told = service_pb2.ServerMetadataResponse.FromString(message)
    return told.name, told.version


def lay_registration(name: str, nbytes: int) -> bytes:
    """A serialised SystemSharedMemoryRegisterRequest of a whole shared-memory object, under its own name."""
    request = service_pb2.SystemSharedMemoryRegisterRequest(
        name=name, key=f"/{name}", offset=0, byte_size=nbytes
    )
    laid: bytes = request.SerializeToString()
    return laid


def lay_unregistration(name: str) -> bytes:
    """A serialised SystemSharedMemoryUnregisterRequest. The empty name would be every region there is."""
    laid: bytes = service_pb2.SystemSharedMemoryUnregisterRequest(name=name).SerializeToString()
    return laid


def read_signature(metadata_bytes: bytes, config_bytes: bytes | None, model: str, version: str) -> Signature:
    """A serialised ModelMetadataResponse and ModelConfigResponse as a signature.

    Names, types and shapes are the metadata's, which every KServe server has. The configuration is
    Triton's own and tells of batching, optional inputs and decoupled-ness; None, from a server that
    has none, stands for neither of them. `version` is the one asked for; empty takes the highest.
    Raises UpstreamFailed for what cannot be understood.
    """
    metadata = _parse(service_pb2.ModelMetadataResponse, metadata_bytes, model)
    config = None
    if config_bytes is not None:
        config = _parse(service_pb2.ModelConfigResponse, config_bytes, model).config
    max_batch_size = config.max_batch_size if config is not None else 0
    optional = {entry.name for entry in config.input if entry.optional} if config is not None else set()

    def specs(entries: Iterable[service_pb2.ModelMetadataResponse.TensorMetadata]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                entry.name,
                _data_type(entry.datatype, entry.name, metadata.name),
                tuple(entry.shape)[1 if max_batch_size > 0 else 0 :],
                optional=entry.name in optional,
            )
            for entry in entries
        )

    return Signature(
        model=metadata.name,
        version=version or _highest(metadata.versions),
        inputs=specs(metadata.inputs),
        outputs=specs(metadata.outputs),
        max_batch_size=max_batch_size,
        decoupled=config is not None and config.model_transaction_policy.decoupled,
        batch_delay_us=config.dynamic_batching.max_queue_delay_microseconds if config is not None else 0,
        instances=_instances(config) if config is not None else 1,
    )


def _instances(config: model_config_pb2.ModelConfig) -> int:
    """How many batches a model runs at once: each group's count is for every GPU that it lists."""
    found: int = sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)
    return max(1, found)


def lay_count(model: str, version: str) -> bytes:
    """A serialised ModelStatisticsRequest."""
    laid: bytes = service_pb2.ModelStatisticsRequest(name=model, version=version).SerializeToString()
    return laid


def read_counters(response: bytes, model: str, asked_ns: int, answered_ns: int) -> Counters:
    """A serialised ModelStatisticsResponse, its versions added up; when it was asked for and when it came.

    Durations of the server are sums over requests in nanoseconds, those by batch size over executions (Triton's
    extension_statistics). Raises UpstreamFailed for what cannot be understood.
    """
    told = _parse(service_pb2.ModelStatisticsResponse, response, model).model_stats
    sums: Counter[str] = Counter()
    batches: dict[int, tuple[int, int]] = {}
    for one in told:
        stats = one.inference_stats
        sums["requests"] += stats.success.count
        sums["rows"] += one.inference_count
        sums["executions"] += one.execution_count
        sums["queue"] += stats.queue.ns
        sums["compute"] += stats.compute_input.ns + stats.compute_infer.ns
        sums["output"] += stats.compute_output.ns
        for batch in one.batch_stats:
            count, nanoseconds = batches.get(batch.batch_size, (0, 0))
            batches[batch.batch_size] = (
                count + batch.compute_infer.count,
                nanoseconds + batch.compute_input.ns + batch.compute_infer.ns,
            )
    return Counters(
        at_ns=answered_ns,
        rtt_ns=answered_ns - asked_ns,
        requests=sums["requests"],
        rows=sums["rows"],
        executions=sums["executions"],
        queue_ns=sums["queue"],
        compute_ns=sums["compute"],
        output_ns=sums["output"],
        batches=batches,
    )


def event_words(event: bytes, model: str) -> str:
    """The error message of a serialised ModelStreamInferResponse, empty where it has none."""
    words: str = _parse(service_pb2.ModelStreamInferResponse, event, model).error_message
    return words


def read_event(event: bytes, call: Call) -> tuple[Answer, bool]:
    """A serialised ModelStreamInferResponse: its answer, and whether it says that it is the last.

    Raises what its error message means, and as `read_answer`.
    """
    message = _parse(service_pb2.ModelStreamInferResponse, event, call.model)
    if message.error_message:
        raise of_stream(message.error_message, call.model)
    response = message.infer_response
    last = IS_FINAL in response.parameters and bool(response.parameters[IS_FINAL].bool_param)
    return _answer(response, call, _NOWHERE), last


def read_answer(response: bytes, call: Call, into: Mapping[str, Slot] = _NOWHERE) -> Answer:
    """A serialised ModelInferResponse's outputs, wherever they are, checked; in the order asked for, or
    else the server's.

    `into` is what the request was laid with; the answer has those slots that outputs lie in.

    Raises UpstreamFailed for bytes that are no such message, and for outputs that are given twice, of a
    type not known here, or whose bytes are not what their type and shape take. Whether all are there
    is for `check_complete` to say.
    """
    return _answer(_parse(service_pb2.ModelInferResponse, response, call.model), call, into)


def _answer(response: service_pb2.ModelInferResponse, call: Call, into: Mapping[str, Slot]) -> Answer:
    outputs: dict[str, Tensor] = {}
    for tensor in _tensors(response, call.model, into):
        if tensor.name in outputs:
            _fail(call.model, f"gave output {tensor.name!r} twice")
        outputs[tensor.name] = tensor
    wanted = call.outputs or tuple(outputs)
    found = tuple(outputs[name] for name in wanted if name in outputs)
    return Answer(
        found,
        response.model_name or call.model,
        response.model_version,
        tuple(into[tensor.name] for tensor in found if tensor.at is not None),
    )


def check_complete(answer: Answer, call: Call) -> Answer:
    """The answer, if every output asked for is in it, and at least one. Raises UpstreamFailed."""
    found = {tensor.name for tensor in answer.outputs}
    if missing := [name for name in call.outputs if name not in found]:
        _fail(call.model, f"answered without {', '.join(map(repr, missing))}, which was asked for")
    if not found:
        _fail(call.model, "answered without any output")
    return answer


def _parse(kind: type[Parsed], data: bytes, model: str) -> Parsed:
    try:
        return kind.FromString(data)
    except DecodeError:
        _fail(model, f"answered with {len(data)} bytes that are no {kind.DESCRIPTOR.name}")


def _tensors(
    response: service_pb2.ModelInferResponse, model: str, into: Mapping[str, Slot]
) -> Iterator[Tensor]:
    for output, raw in _contents(response, model, into):
        data_type = _data_type(output.datatype, output.name, model)
        shape = tuple(output.shape)
        if raw is not None:
            tensor = Tensor(output.name, data_type, shape, raw)
        elif output.name in into and not output.contents.ByteSize():
            tensor = _in_slot(output, data_type, shape, into[output.name], model)
        else:
            tensor = Tensor(output.name, data_type, shape, _typed_output(output, data_type, model))
        if problem := fault(tensor):
            _fail(model, f"gave output {output.name!r}, which {problem}{_hint(tensor)}")
        yield tensor


def _contents(
    response: service_pb2.ModelInferResponse, model: str, into: Mapping[str, Slot]
) -> Iterator[tuple[service_pb2.ModelInferResponse.InferOutputTensor, bytes | None]]:
    """Each output with its raw contents, None where it has none.

    Triton 2.51 puts empty ones in the place of an output that is in the arena; the protocol's words allow
    a server to leave them out.
    """
    raw, outputs = response.raw_output_contents, response.outputs
    sent = [output for output in outputs if output.name not in into]
    if len(raw) == len(outputs):
        for output, contents in zip(outputs, raw, strict=True):
            yield output, None if output.name in into and not contents else contents
    elif not raw or len(raw) == len(sent):
        rest = iter(raw)
        for output in outputs:
            yield output, None if output.name in into else next(rest, None)
    else:
        _fail(model, f"gave {len(outputs)} outputs but the contents of {len(raw)}")


def _in_slot(
    output: service_pb2.ModelInferResponse.InferOutputTensor,
    data_type: DataType,
    shape: tuple[int, ...],
    slot: Slot,
    model: str,
) -> Tensor:
    """An output that the model server wrote to its slot, which may be roomier than the output is."""
    told = output.parameters
    offset = told[_OFFSET].int64_param if _OFFSET in told else slot.offset
    nbytes = math.prod(shape) * data_type.itemsize
    if offset != slot.offset:
        _fail(model, f"says that output {output.name!r} lies at {offset}, where {slot.offset} was asked for")
    if data_type is DataType.BYTES or not 0 <= nbytes <= slot.view.nbytes:
        _fail(
            model,
            f"gave output {output.name!r} as {data_type.value} {list(shape)} where its declaration takes "
            f"{slot.view.nbytes} bytes",
        )
    return Tensor(output.name, data_type, shape, slot.view[:nbytes], at=slot.offset)


def _hint(tensor: Tensor) -> str:
    """The known reason for an output of the right shape and no bytes: a trap that costs people days."""
    if tensor.nbytes:
        return ""
    return (
        ". An output with a shape and no bytes is what Triton's Python backend gives where the model's "
        "interpreter has numpy 2 and the server was built for numpy 1: install 'numpy<2' there"
    )


def _typed_output(
    output: service_pb2.ModelInferResponse.InferOutputTensor, data_type: DataType, model: str
) -> bytes:
    """Typed contents in wire form. Raises UpstreamFailed for a type without, or an element out of range."""
    if data_type not in _TYPED:
        _fail(model, f"gave output {output.name!r} as {data_type.value} without raw contents")
    data = typed(output.contents, data_type)
    if data is None:
        _fail(model, f"gave output {output.name!r} with elements that {data_type.value} cannot hold")
    return data


def typed(contents: service_pb2.InferTensorContents, data_type: DataType) -> bytes | None:
    """Typed contents in wire form; None for a type that has none, and for elements out of its range."""
    if data_type not in _TYPED:
        return None
    field, wide_type = _TYPED[data_type]
    values = getattr(contents, field)
    if data_type is DataType.BYTES:
        return encode(values)
    wide = np.array(values, dtype=wide_type)
    narrow = wide.astype(data_type.storage)
    return narrow.tobytes() if np.array_equal(wide, narrow, equal_nan=True) else None


def _data_type(word: str, tensor: str, model: str) -> DataType:
    name = word.removeprefix("TYPE_")
    try:
        return DataType(_ALIASES.get(name, name))
    except ValueError:
        known = ", ".join(kind.value for kind in DataType)
        _fail(model, f"has tensor {tensor!r} of type {quote(word)}, which is not known here ({known})")


def _highest(versions: Iterable[str]) -> str:
    """The version that Triton takes by itself: the highest number."""
    return max(versions, key=lambda version: (version.isdecimal(), version.zfill(20)), default="")


def _parameter(value: ParameterValue) -> service_pb2.InferParameter:
    field = next(field for kind, field in _PARAMETER_FIELDS if isinstance(value, kind))
    return service_pb2.InferParameter(**{field: value})


def _fail(model: str, problem: str) -> NoReturn:
    raise UpstreamFailed(f"model {model!r} {problem}; correct the model or its server", model=model)
