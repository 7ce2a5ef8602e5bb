"""Triton's messages (KServe v2) to the path's values, and back. Pure.

What a client of Triton's may write of a tensor is read here in all its forms: raw contents, typed ones, and places in
shared memory. Raw contents are never copied on the way in, and once on the way out. What is wrong with a request is
raised as the errors of the path are; nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Final

from tritonclient.grpc import model_config_pb2, service_pb2

from sidecar.catalogue import ServedModel
from sidecar.deadline import Deadline
from sidecar.edge.fields import LENGTH_DELIMITED, Part
from sidecar.edge.open_inference.envelope import RAW_INPUTS, REGION, Envelope, parsed
from sidecar.edge.receive import priority_of
from sidecar.edge.tallies import Tally
from sidecar.entry import Asked, Verb
from sidecar.errors import InvalidInput, InvalidRequest, UpstreamFailed, WrongItemCount
from sidecar.media import DataType, Tensor
from sidecar.observe.timings import ModelTimes, Stage, Timings
from sidecar.recipes.clean import CleanPicture, CleanSound
from sidecar.stages.admit.limits import Limits
from sidecar.stages.deliver.bindings import Grouping
from sidecar.stages.deliver.elements import ends, fault
from sidecar.stages.deliver.inputs import MAX_BYTES_ELEMENTS
from sidecar.stages.deliver.upstream import ParameterValue
from sidecar.stages.deliver.wire import IS_FINAL, WANT_FINAL, typed, varint
from sidecar.walk import Walk

PREFIX: Final = "sidecar_"
"""What our own response parameters begin with."""
_RAW_OUTPUTS = 6
_MOST_INT64: Final = (1 << 63) - 1
# As for our own API (edge/receive.py).
_MOST_OF_A_KIND: Final = 256
_CLASSES: Final = "classification"
_OFFSET, _BYTE_SIZE = "shared_memory_offset", "shared_memory_byte_size"
# What the protocol itself says of a request; the model server hears them as they were said.
_PROTOCOLS_OWN: Final = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "timeout", "headers", "binary_data_output"}
)
_BYTES: Final = model_config_pb2.TYPE_STRING


# --- requests ---


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a region of shared memory that the client has registered."""

    region: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Given:
    """An input as it was given: its contents are `data`, or lie at `place`. Its shape has the batch axis."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    data: Part = b""
    place: Place | None = None

    def tensor(self) -> Tensor:
        """Raises InvalidInput where bytes and shape contradict each other."""
        tensor = Tensor(self.name, self.data_type, self.shape, self.data)
        if problem := fault(tensor):
            raise InvalidInput(f"input {self.name!r} {problem}", input=self.name)
        return tensor


@dataclass(frozen=True, slots=True)
class Request:
    """A ModelInferRequest. `places` are where outputs are to be written to, by their names."""

    model: str
    request_id: str
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...]
    classes: Mapping[str, int]
    places: Mapping[str, Place]
    version: str
    parameters: Mapping[str, ParameterValue]
    reserved: Mapping[str, ParameterValue]
    wants_final: bool

    def media(self, served: ServedModel) -> Given | None:
        """The input with encoded files, by the name that the model's metadata shows; None where there is none."""
        name = media_input(served)
        return next(
            (each for each in self.inputs if each.name == name and each.data_type is DataType.BYTES), None
        )

    def check_passable(self, served: ServedModel) -> None:
        """A request without media may be passed on, but not with media that was made elsewhere for a model that is to
        be given clean media alone. Raises InvalidInput.
        """
        if not isinstance(served.recipe, CleanPicture | CleanSound):
            return
        made = {output.name for output in served.recipe.outputs}
        made |= set(served.binding.made) if served.binding is not None else set()
        for given in self.inputs:
            if given.name in made:
                raise InvalidInput(
                    f"input {given.name!r} is made from the media: send the file as {media_input(served)!r}",
                    input=given.name,
                )

    def check_version(self, served: ServedModel) -> None:
        """Raises InvalidRequest for a version that this model is not prepared for."""
        known = served.config.version or (served.signature.version if served.signature is not None else "")
        if self.version and self.version != known:
            raise InvalidRequest(
                f"model {served.name!r} is served here in version {known or 'unknown'}, and the request asks for "
                f"version {self.version}: leave it out, or serve that one under a name of its own",
                field="model_version",
            )


def read(envelope: Envelope) -> Request:
    """A request. Raises InvalidRequest and InvalidInput."""
    found = envelope.fields
    contents: list[Part]
    if found is None or any(number == RAW_INPUTS and content is None for number, _, content in found):
        message = parsed(envelope.raw)
        contents = list(message.raw_input_contents)
    else:
        message = parsed(b"".join(whole for number, whole, _ in found if number != RAW_INPUTS))
        contents = [content for number, _, content in found if number == RAW_INPUTS and content is not None]
    for field in ("inputs", "outputs", "parameters"):
        if (count := len(getattr(message, field))) > _MOST_OF_A_KIND:
            raise InvalidRequest(
                f"the request brings {count} {field}, and {_MOST_OF_A_KIND} are allowed: leave out what the model does "
                "not take",
                field=field,
            )
    parameters = {name: _value(name, value) for name, value in message.parameters.items()}
    return Request(
        model=message.model_name,
        request_id=message.id,
        version=message.model_version,
        inputs=_inputs(message.inputs, contents),
        outputs=tuple(output.name for output in message.outputs),
        classes={
            output.name: int(output.parameters[_CLASSES].int64_param)
            for output in message.outputs
            if _CLASSES in output.parameters
        },
        places={
            output.name: place
            for output in message.outputs
            if (place := _place(output.name, output.parameters)) is not None
        },
        parameters={
            name: value
            for name, value in parameters.items()
            if name not in _PROTOCOLS_OWN and name != WANT_FINAL
        },
        reserved={name: value for name, value in parameters.items() if name in _PROTOCOLS_OWN},
        wants_final=bool(parameters.get(WANT_FINAL, False)),
    )


def _inputs(
    inputs: Sequence[service_pb2.ModelInferRequest.InferInputTensor], contents: Sequence[Part]
) -> tuple[Given, ...]:
    """Inputs with their contents: an entry of `raw_input_contents` for each that is not in shared memory, or typed."""
    places = [_place(each.name, each.parameters) for each in inputs]
    sent = sum(place is None for place in places)
    if contents and len(contents) != sent:
        raise InvalidRequest(
            f"the request brings {len(contents)} raw contents for {sent} inputs that are not in shared memory: send "
            "one for each of them",
            field="raw_input_contents",
        )
    rest = iter(contents)
    found = []
    for each, place in zip(inputs, places, strict=True):
        data_type, shape = _data_type(each.name, each.datatype), tuple(each.shape)
        if place is not None:
            found.append(Given(each.name, data_type, shape, place=place))
        elif contents:
            found.append(Given(each.name, data_type, shape, next(rest)))
        else:
            data = typed(each.contents, data_type)
            if data is None:
                raise InvalidInput(
                    f"input {each.name!r} has elements that {data_type.value} cannot hold, or that must be raw",
                    input=each.name,
                )
            found.append(Given(each.name, data_type, shape, data))
    return tuple(found)


def _data_type(name: str, word: str) -> DataType:
    try:
        return DataType(word)
    except ValueError:
        known = ", ".join(kind.value for kind in DataType)
        raise InvalidInput(
            f"input {name!r} is of type {word!r}, which is not known here ({known})", input=name
        ) from None


def _place(name: str, parameters: Mapping[str, service_pb2.InferParameter]) -> Place | None:
    if REGION not in parameters:
        return None
    place = Place(
        parameters[REGION].string_param,
        parameters[_OFFSET].int64_param if _OFFSET in parameters else 0,
        parameters[_BYTE_SIZE].int64_param if _BYTE_SIZE in parameters else 0,
    )
    if place.offset < 0 or place.nbytes <= 0:
        raise InvalidRequest(
            f"{name!r} is said to lie in region {place.region!r} at {place.offset}, {place.nbytes} bytes: both must be "
            "there and none below 0",
            field=_BYTE_SIZE,
        )
    return place


def _value(name: str, parameter: service_pb2.InferParameter) -> ParameterValue:
    kind = parameter.WhichOneof("parameter_choice")
    value: ParameterValue = getattr(parameter, kind) if kind else ""
    if isinstance(value, int) and value > _MOST_INT64:
        raise InvalidRequest(
            f"parameter {name!r} is {value}, which does not fit in 64 bits with a sign; send it as text",
            field=f"parameters[{name!r}]",
        )
    return value


# --- what is asked ---


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a request that is one call of the path: some of its media, and the inputs that go along."""

    media: tuple[memoryview, ...]
    inputs: tuple[Tensor, ...]

    def ask(self, request: Request, verb: Verb, deadline: Deadline, tenant: str) -> Asked:
        """What is asked, all but the media."""
        return Asked(
            verb=verb,
            model=request.model,
            items=len(self.media),
            deadline=deadline,
            inputs=self.inputs,
            outputs=request.outputs,
            all_or_nothing=True,
            request_id=request.request_id,
            parameters=request.parameters,
            reserved=request.reserved,
            classes=request.classes,
            tenant=tenant,
            priority=priority_of(request.parameters.get("priority", 0)),
        )


def shares(request: Request, media: Given, served: ServedModel, limits: Limits) -> list[Share]:
    """A request as calls: one, where all rows are given the same inputs beside their media, else one a row.

    Raises WrongItemCount for more files than one request may bring or none, InvalidInput where the axes do not fit
    together, and InvalidRequest for inputs that are too large together.
    """
    _check_size(request, media, served, limits)
    files = _files(media, served)
    rows = len(files) if served.grouping is Grouping.EACH else 1
    plain = [given.tensor() for given in request.inputs if given is not media]
    if not _batches(served):
        return [Share(files, tuple(plain))]
    for tensor in plain:
        if not tensor.shape or tensor.shape[0] != rows:
            raise InvalidInput(
                f"input {tensor.name!r} is {list(tensor.shape)} beside media of {rows} rows: its first axis must be "
                "the batch",
                input=tensor.name,
            )
    columns = [_rows(tensor, rows) for tensor in plain]
    by_row = [tuple(column[row] for column in columns) for row in range(rows)]
    if all(row == by_row[0] for row in by_row):
        return [Share(files, by_row[0])]
    return [Share((file,), row) for file, row in zip(files, by_row, strict=True)]


def _check_size(request: Request, media: Given, served: ServedModel, limits: Limits) -> None:
    """Before anything is walked or made of it: a few bytes can promise millions of elements."""
    files, most = math.prod(media.shape), served.config.max_items or limits.items
    if not 0 < files <= most:
        raise WrongItemCount(
            f"input {media.name!r} is {list(media.shape)}, {files} files: model {served.name!r} takes 1 to {most} in a "
            "request",
            field=media.name,
            found=files,
            allowed=f"1 to {most}",
        )
    others = [given for given in request.inputs if given is not media]
    for given in others:
        if given.data_type is DataType.BYTES and math.prod(given.shape) > MAX_BYTES_ELEMENTS:
            raise InvalidInput(
                f"input {given.name!r} is {list(given.shape)}; at most {MAX_BYTES_ELEMENTS} elements are taken",
                input=given.name,
            )
    found = sum(len(given.data) for given in others)
    if found > limits.inputs_bytes:
        raise InvalidRequest(
            f"the plain inputs are {found} bytes, and the limit `limits.inputs_bytes` is {limits.inputs_bytes}: send "
            "fewer rows at once, or raise the limit",
            field="inputs",
        )


def _batches(served: ServedModel) -> bool:
    return served.binding is not None and served.binding.batches


def _files(media: Given, served: ServedModel) -> tuple[memoryview, ...]:
    """The encoded files in the media input."""
    tensor = media.tensor()
    allowed: set[tuple[int, ...]] = {(tensor.elements,)}
    if _batches(served):
        allowed |= {(tensor.elements, 1)} if served.grouping is Grouping.EACH else {(1, tensor.elements)}
    if tensor.shape not in allowed:
        raise InvalidInput(
            f"input {media.name!r} is {list(tensor.shape)}: it takes encoded files as "
            f"{' or '.join(str(list(shape)) for shape in sorted(allowed))}",
            input=media.name,
        )
    view, begin, files = memoryview(tensor.data).cast("B"), 0, []
    for end in ends(tensor) or ():
        files.append(view[begin + 4 : end])  # an element is its length in 4 bytes, and the bytes
        begin = end
    return tuple(files)


def _rows(tensor: Tensor, rows: int) -> list[Tensor]:
    """A tensor's rows, without the batch axis."""
    view, shape = memoryview(tensor.data).cast("B"), tensor.shape[1:]
    if tensor.data_type is DataType.BYTES:
        at, step = [0, *(ends(tensor) or ())], tensor.elements // rows
        cuts = [at[row * step] for row in range(rows + 1)]
    else:
        step = tensor.nbytes // rows
        cuts = [row * step for row in range(rows + 1)]
    return [replace(tensor, shape=shape, data=bytes(view[begin:end])) for begin, end in pairwise(cuts)]


# --- answers ---


@dataclass(frozen=True, slots=True)
class Reply:
    """A ModelInferResponse, laid but for its times: a header, and the contents of outputs that are not elsewhere."""

    message: service_pb2.ModelInferResponse
    contents: list[Part]

    def stamped(self, times: Timings, model_times: ModelTimes | None) -> bytes:
        """The whole, with the stages' times as parameters, and the model's own where it told them."""
        for stage in Stage:
            self.message.parameters[f"{PREFIX}{stage.value}_ns"].int64_param = times.stages.get(stage, 0)
        self.message.parameters[f"{PREFIX}total_ns"].int64_param = times.total_ns
        self.message.parameters[f"{PREFIX}gap_ns"].int64_param = times.gap_ns
        for name, spent in asdict(model_times).items() if model_times is not None else ():
            self.message.parameters[f"{PREFIX}model_{name}"].int64_param = spent
        return self.laid()

    def laid(self) -> bytes:
        """The whole as it is."""
        parts: list[Part] = [self.message.SerializeToString()]
        for data in self.contents:
            view = memoryview(data).cast("B")
            parts += (varint(_RAW_OUTPUTS << 3 | LENGTH_DELIMITED), varint(view.nbytes), view)
        return b"".join(parts)


def outputs_of(walks: Sequence[Walk], served: ServedModel) -> tuple[Tensor, ...]:
    """The outputs of a request whose shares were walked: rows joined along the batch axis, where there is one.

    Raises UpstreamFailed where rows differ in shape, which the protocol cannot say.
    """
    if served.grouping is not Grouping.EACH:
        (walk,) = walks
        return outputs_of_one(walk.outputs, served)
    rows = [item.tensors for walk in walks for item in walk.items]
    if not _batches(served):
        return rows[0]
    return tuple(_batched(column) for column in zip(*rows, strict=True))


def outputs_of_one(outputs: tuple[Tensor, ...], served: ServedModel) -> tuple[Tensor, ...]:
    """The outputs of one inference as a batch of it, where the model batches."""
    return tuple(_batched([output]) for output in outputs) if _batches(served) else outputs


def _batched(rows: Sequence[Tensor]) -> Tensor:
    first = rows[0]
    if any(row.shape != first.shape for row in rows):
        shapes = ", ".join(str(list(row.shape)) for row in rows)
        raise UpstreamFailed(
            f"output {first.name!r} differs in shape between rows ({shapes}), and Triton's protocol has one shape for "
            "all: send the rows in requests of their own"
        )
    data = first.data if len(rows) == 1 else b"".join(memoryview(row.data).cast("B") for row in rows)
    return Tensor(first.name, first.data_type, (len(rows), *first.shape), data)


def reply(request: Request, outputs: Iterable[Tensor], version: str, *, final: bool | None = None) -> Reply:
    """An answer. Outputs that have a place are told by it; who calls writes them there. `final` says whether it is a
    stream's last, None where that is not said.
    """
    message = service_pb2.ModelInferResponse(
        model_name=request.model, model_version=version, id=request.request_id
    )
    contents: list[Part] = []
    for tensor in outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.data_type.value, shape=tensor.shape)
        place = request.places.get(tensor.name)
        if place is None:
            contents.append(tensor.data)
            continue
        output.parameters[REGION].string_param = place.region
        output.parameters[_BYTE_SIZE].int64_param = tensor.nbytes
        if place.offset:
            output.parameters[_OFFSET].int64_param = place.offset
        contents.append(b"")  # as Triton has it: an empty entry for an output that lies elsewhere
    if final is not None:
        message.parameters[IS_FINAL].bool_param = final
    return Reply(message, contents)


def event(response: bytes) -> bytes:
    """A serialised ModelInferResponse as a stream's."""
    return b"".join([varint(2 << 3 | LENGTH_DELIMITED), varint(len(response)), response])


def event_of_error(words: str, request: Request | None) -> bytes:
    """A stream's response that says what went wrong with a request; None for one that could not be read."""
    message = service_pb2.ModelStreamInferResponse(error_message=words)
    if request is not None:
        message.infer_response.id = request.request_id
        message.infer_response.model_name = request.model
    laid: bytes = message.SerializeToString()
    return laid


def words_of(event_: bytes) -> str:
    """The error message of a stream's response, empty where it has none or is none."""
    for number, _, content in Envelope.of(event_).fields or ():
        if number == 1 and content is not None:
            return bytes(content).decode(errors="replace")
    return ""


# --- what is told of a model ---


def media_input(served: ServedModel) -> str:
    """The name of the input that takes encoded files: its modality's, but where the model has a plain one so named."""
    assert served.recipe is not None  # noqa: S101 - asked of models with a recipe only
    name = served.recipe.modality.value
    plain = {spec.name for spec in served.binding.plain} if served.binding is not None else set()
    return "media" if name in plain else name


def metadata(told: bytes, served: ServedModel) -> bytes:
    """A model's metadata by its name here, with encoded files in the place of the tensors that are made of them."""
    message = service_pb2.ModelMetadataResponse.FromString(told)
    message.name = served.name
    if served.recipe is not None:
        made = served.binding.made if served.binding is not None else ()
        plain = [entry for entry in message.inputs if entry.name not in made]
        del message.inputs[:]
        # [rows, 1] where each row is a file, [1, files] where they belong together, as for any model that batches.
        shape = ([-1] if _batches(served) else []) + [1 if served.grouping is Grouping.EACH else -1]
        message.inputs.add(name=media_input(served), datatype="BYTES", shape=shape)
        message.inputs.extend(plain)
    laid: bytes = message.SerializeToString()
    return laid


def config(told: bytes, served: ServedModel) -> bytes:
    """The same of a model's configuration."""
    message = service_pb2.ModelConfigResponse.FromString(told)
    message.config.name = served.name
    if served.recipe is not None:
        made = served.binding.made if served.binding is not None else ()
        plain = [entry for entry in message.config.input if entry.name not in made]
        del message.config.input[:]
        each = served.grouping is Grouping.EACH
        message.config.input.add(name=media_input(served), data_type=_BYTES, dims=[1 if each else -1])
        message.config.input.extend(plain)
        if _batches(served) and not each:
            message.config.max_batch_size = 1
    laid: bytes = message.SerializeToString()
    return laid


def statistics(
    told: bytes,
    asked: ServedModel | None,
    prepared: Sequence[ServedModel],
    tallies: Mapping[str, Tally],
    listed: Collection[str] | None = None,
) -> bytes:
    """Statistics with an entry for the preprocessing of each model in `prepared`, under its name and "/preprocessing".
    Where they are those of one model that was asked about, they bear its name here; of others only those in `listed`
    are told, by the model server's names.

    In the terms of Triton's: an inference is an item, `queue` is admit, `compute_input` what comes before transform,
    `compute_infer` transform and `compute_output` pack.
    """
    message = service_pb2.ModelStatisticsResponse.FromString(told)
    if asked is not None:
        for entry in message.model_stats:
            entry.name = asked.name
    elif listed is not None:
        kept = [entry for entry in message.model_stats if entry.name in listed]
        del message.model_stats[:]
        message.model_stats.extend(kept)
    for model in prepared:
        tally = tallies.get(model.name, Tally())
        entry = message.model_stats.add(
            name=f"{model.name}/preprocessing",
            version=model.signature.version if model.signature is not None else "",
            last_inference=tally.last_ms,
            inference_count=tally.made,
            execution_count=tally.made,
        )
        stats = entry.inference_stats
        spent = tally.stages
        before = spent[Stage.RECEIVE] + spent[Stage.PROBE] + spent[Stage.DECODE]
        for duration, nanoseconds in (
            (stats.success, sum(spent.values())),
            (stats.queue, spent[Stage.ADMIT]),
            (stats.compute_input, before),
            (stats.compute_infer, spent[Stage.TRANSFORM]),
            (stats.compute_output, spent[Stage.PACK]),
        ):
            duration.count, duration.ns = tally.made, nanoseconds
        stats.fail.count, stats.fail.ns = tally.failed, tally.failed_ns
    laid: bytes = message.SerializeToString()
    return laid
