from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from sidecar.errors import UpstreamError, UpstreamFailed
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.stages.deliver import wire
from sidecar.stages.deliver.elements import decode, encode
from sidecar.stages.deliver.upstream import Answer, Call, Signature
from sidecar.stages.deliver.wire import (
    check_complete,
    lay_registration,
    lay_request,
    lay_unregistration,
    read_event,
    varint,
)

Request, Response = service_pb2.ModelInferRequest, service_pb2.ModelInferResponse
CALL = Call("clip", ())

names = st.text(max_size=8)
dense = st.builds(
    lambda name, kind, data, view: Tensor(name, kind, (len(data),), memoryview(data) if view else data),
    names,
    st.sampled_from(DataType),
    st.binary(max_size=300),
    st.booleans(),
)
values = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), names)
calls = st.builds(
    Call,
    model=names,
    inputs=st.lists(dense, max_size=3).map(tuple),
    version=names,
    outputs=st.lists(names, max_size=3).map(tuple),
    request_id=names,
    parameters=st.dictionaries(names, values, max_size=3),
)


@given(calls, st.booleans())
def test_a_request_laid_by_hand_is_what_the_generated_classes_write(call: Call, want_final: bool) -> None:
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    expected = Request(model_name=call.model, model_version=call.version, id=call.request_id)
    for name, value in call.parameters.items():
        setattr(expected.parameters[name], fields[type(value)], value)
    if want_final:
        expected.parameters["triton_enable_empty_final_response"].bool_param = True
    for one in call.inputs:
        expected.inputs.add(name=one.name, datatype=one.data_type.value, shape=one.shape)
        expected.raw_input_contents.append(bytes(one.data))
    for wanted in call.outputs:
        expected.outputs.add(name=wanted)
    laid = lay_request(call, want_final=want_final)
    assert expected == Request.FromString(laid.message)
    assert expected.ByteSize() == len(laid.message)
    assert (laid.copied, laid.shared) == (sum(one.nbytes for one in call.inputs), 0)


def test_the_views_of_many_axes_are_laid_whole() -> None:
    view = memoryview(bytes(range(24))).cast("B", (2, 3, 4))
    laid = lay_request(Call("m", (Tensor("x", DataType.UINT8, (2, 3, 4), view),)))
    assert [bytes(range(24))] == list(Request.FromString(laid.message).raw_input_contents)


@dataclass
class Place:
    """A slot of no arena."""

    offset: int
    view: memoryview

    def retain(self) -> None: ...
    def release(self) -> None: ...
    def pin(self) -> None: ...
    def unpin(self) -> None: ...


IN_ARENA = Tensor("pixels", DataType.UINT8, (4,), memoryview(b"abcd"), at=4096)
ELSEWHERE = Tensor("word", DataType.BYTES, (1,), encode([b"hi"]))
EMPTY = Tensor("empty", DataType.UINT8, (0,), memoryview(b""), at=8192)
MIXED = Call("clip", (ELSEWHERE, IN_ARENA, EMPTY), outputs=("a", "b"))


def places(tensors: Any) -> dict[str, tuple[str, int, int]]:
    keys = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
    return {
        tensor.name: (
            tensor.parameters[keys[0]].string_param,
            tensor.parameters[keys[1]].int64_param,
            tensor.parameters[keys[2]].int64_param,
        )
        for tensor in tensors
        if keys[0] in tensor.parameters
    }


def test_inputs_in_the_arena_are_told_by_their_place_and_the_others_keep_their_order() -> None:
    laid = lay_request(MIXED, region="arena")
    message = Request.FromString(laid.message)
    assert places(message.inputs) == {"pixels": ("arena", 4096, 4)}
    assert list(message.raw_input_contents) == [encode([b"hi"]), b""]
    assert (laid.copied, laid.shared) == (6, 4)


def test_without_a_region_inputs_in_the_arena_are_sent_as_bytes() -> None:
    laid = lay_request(MIXED)
    message = Request.FromString(laid.message)
    assert places(message.inputs) == {}
    assert list(message.raw_input_contents) == [encode([b"hi"]), b"abcd", b""]
    assert (laid.copied, laid.shared) == (10, 0)


def test_outputs_are_asked_for_in_their_slots() -> None:
    laid = lay_request(MIXED, region="arena", into={"b": Place(64, memoryview(bytearray(8)))})
    assert places(Request.FromString(laid.message).outputs) == {"b": ("arena", 64, 8)}


def test_a_region_is_registered_whole_under_its_own_name() -> None:
    found = service_pb2.SystemSharedMemoryRegisterRequest.FromString(lay_registration("arena", 4096))
    assert (found.name, found.key, found.offset, found.byte_size) == ("arena", "/arena", 0, 4096)
    assert (
        service_pb2.SystemSharedMemoryUnregisterRequest.FromString(lay_unregistration("arena")).name
        == "arena"
    )


@pytest.mark.parametrize(
    ("number", "expected"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_a_varint_takes_seven_bits_a_byte(number: int, expected: bytes) -> None:
    assert expected == varint(number)


def read_answer(response: Any, call: Call, into: Mapping[str, Place] | None = None) -> Answer:
    return wire.read_answer(response.SerializeToString(), call, into or {})


def read_signature(metadata: Any, config: Any, version: str) -> Signature:
    wrapped = config and service_pb2.ModelConfigResponse(config=config)
    return wire.read_signature(
        metadata.SerializeToString(), wrapped and wrapped.SerializeToString(), "clip", version
    )


def tensor(
    name: str = "out",
    datatype: str = "FP32",
    shape: tuple[int, ...] = (2,),
    field: str = "fp32_contents",
    elements: Sequence[Any] = (),
) -> Any:
    output = Response.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    getattr(output.contents, field).extend(elements)
    return output


def test_raw_outputs_are_read_in_their_order() -> None:
    answer = read_answer(
        Response(
            model_name="clip",
            model_version="3",
            outputs=[tensor("a"), tensor("b", "BYTES", (1,))],
            raw_output_contents=[bytes(8), encode([b"hi"])],
        ),
        CALL,
    )
    assert [one.name for one in answer.outputs] == ["a", "b"]
    assert decode(answer.outputs[1]) == [b"hi"]
    assert (answer.model, answer.version) == ("clip", "3")


def test_outputs_come_in_the_order_asked_for() -> None:
    response = Response(outputs=[tensor("a"), tensor("b")], raw_output_contents=[bytes(8)] * 2)
    assert [one.name for one in read_answer(response, Call("m", (), outputs=("b", "a"))).outputs] == [
        "b",
        "a",
    ]
    assert [one.name for one in read_answer(response, Call("m", (), outputs=("b",))).outputs] == ["b"]


@pytest.mark.parametrize(
    ("datatype", "field", "elements", "data"),
    [
        ("BOOL", "bool_contents", [True, False], b"\x01\x00"),
        ("INT8", "int_contents", [-1, 127], b"\xff\x7f"),
        ("INT16", "int_contents", [-2, 1], b"\xfe\xff\x01\x00"),
        ("INT32", "int_contents", [1, -1], b"\x01\x00\x00\x00\xff\xff\xff\xff"),
        ("INT64", "int64_contents", [1, -1], b"\x01" + bytes(7) + b"\xff" * 8),
        ("UINT8", "uint_contents", [0, 255], b"\x00\xff"),
        ("UINT16", "uint_contents", [1, 65535], b"\x01\x00\xff\xff"),
        ("UINT32", "uint_contents", [1, 2**32 - 1], b"\x01\x00\x00\x00\xff\xff\xff\xff"),
        ("UINT64", "uint64_contents", [1, 2**64 - 1], b"\x01" + bytes(7) + b"\xff" * 8),
        ("FP32", "fp32_contents", [float("nan"), 0.0], b"\x00\x00\xc0\x7f" + bytes(4)),
        ("FP32", "fp32_contents", [1.0, -2.0], b"\x00\x00\x80\x3f\x00\x00\x00\xc0"),
        ("FP64", "fp64_contents", [0.0, 1.0], bytes(8) + b"\x00\x00\x00\x00\x00\x00\xf0\x3f"),
        ("BYTES", "bytes_contents", [b"hi", b""], b"\x02\x00\x00\x00hi\x00\x00\x00\x00"),
    ],
)
def test_typed_contents_become_the_same_bytes_as_raw_ones(
    datatype: str, field: str, elements: list[Any], data: bytes
) -> None:
    (one,) = read_answer(
        Response(outputs=[tensor(datatype=datatype, field=field, elements=elements)]), CALL
    ).outputs
    assert data == bytes(one.data)


def test_a_typed_output_without_elements_is_empty() -> None:
    (one,) = read_answer(Response(outputs=[tensor(shape=(0, 4))]), CALL).outputs
    assert (one.shape, one.nbytes) == ((0, 4), 0)


@pytest.mark.parametrize(
    ("response", "says"),
    [
        pytest.param(
            Response(outputs=[tensor()], raw_output_contents=[b""]),
            ["'out'", "holds 0 bytes where FP32 [2] takes 8", "numpy<2"],
            id="the trap of numpy 2",
        ),
        pytest.param(
            Response(outputs=[tensor(datatype="BYTES")], raw_output_contents=[b""]),
            ["holds 0 bytes", "numpy<2"],
            id="the trap of numpy 2, for bytes",
        ),
        pytest.param(
            Response(outputs=[tensor()], raw_output_contents=[bytes(7)]),
            ["holds 7 bytes where FP32 [2] takes 8"],
            id="short",
        ),
        pytest.param(
            Response(outputs=[tensor("a"), tensor("a")], raw_output_contents=[bytes(8)] * 2),
            ["gave output 'a' twice"],
            id="twice",
        ),
        pytest.param(
            Response(outputs=[tensor("a"), tensor("b")], raw_output_contents=[bytes(8)]),
            ["gave 2 outputs but the contents of 1"],
            id="contents missing",
        ),
        pytest.param(
            Response(outputs=[tensor(datatype="FP8")], raw_output_contents=[bytes(8)]),
            ['of type "FP8"', "not known here"],
            id="type not known",
        ),
        pytest.param(
            Response(outputs=[tensor(shape=(-1,))], raw_output_contents=[bytes(8)]),
            ["negative length in its shape [-1]"],
            id="negative",
        ),
        pytest.param(
            Response(outputs=[tensor(elements=[1.0])]),
            ["holds 4 bytes where FP32 [2] takes 8"],
            id="typed and short",
        ),
        pytest.param(
            Response(outputs=[tensor(datatype="FP16")]), ["FP16 without raw contents"], id="typed FP16"
        ),
        pytest.param(
            Response(outputs=[tensor(datatype="UINT8", field="uint_contents", elements=[1, 256])]),
            ["elements that UINT8 cannot hold"],
            id="typed and out of range",
        ),
    ],
)
def test_an_output_that_contradicts_itself_is_the_model_server_s_failure(
    response: Any, says: list[str]
) -> None:
    with pytest.raises(UpstreamFailed) as failure:
        read_answer(response, CALL)
    assert failure.value.facts["model"] == "clip"
    assert [part for part in ["model 'clip'", *says] if part not in failure.value.message] == []


def test_an_answer_must_hold_what_was_asked_for_and_something_at_least() -> None:
    some = read_answer(Response(outputs=[tensor("a")], raw_output_contents=[bytes(8)]), CALL)
    assert check_complete(some, CALL) is some
    with pytest.raises(UpstreamFailed, match="without 'b', which was asked for"):
        check_complete(some, Call("clip", (), outputs=("a", "b")))
    with pytest.raises(UpstreamFailed, match="without any output"):
        check_complete(read_answer(Response(), CALL), CALL)


def test_only_a_response_that_says_so_is_the_last() -> None:
    event = service_pb2.ModelStreamInferResponse(infer_response=Response(model_name="clip"))
    assert read_event(event.SerializeToString(), CALL) == (Answer((), "clip", ""), False)
    event.infer_response.parameters["triton_final_response"].bool_param = True
    assert read_event(event.SerializeToString(), CALL) == (Answer((), "clip", ""), True)


@given(st.binary(max_size=40))
def test_whatever_bytes_come_they_are_read_or_blamed_on_the_model_server(data: bytes) -> None:
    for read in (
        lambda: wire.read_answer(data, CALL),
        lambda: read_event(data, CALL),
        lambda: wire.read_signature(data, data, "clip", ""),
    ):
        with suppress(UpstreamError):
            read()


def metadata(*shapes: tuple[int, ...], datatype: str = "FP32") -> Any:
    found = service_pb2.ModelMetadataResponse(name="clip", versions=["2", "10", "9"])
    for place, shape in enumerate(shapes):
        found.inputs.add(name=f"in{place}", datatype=datatype, shape=shape)
    found.outputs.add(name="out", datatype="INT64", shape=(-1, 4))
    return found


def test_a_batching_model_is_told_without_its_batch_axis() -> None:
    config = model_config_pb2.ModelConfig(max_batch_size=8)
    config.input.add(name="in0")
    config.input.add(name="in1", optional=True)
    config.model_transaction_policy.decoupled = True
    assert read_signature(metadata((-1, 3, -1), (-1, 1)), config, "") == Signature(
        model="clip",
        version="10",
        inputs=(
            TensorSpec("in0", DataType.FP32, (3, -1)),
            TensorSpec("in1", DataType.FP32, (1,), optional=True),
        ),
        outputs=(TensorSpec("out", DataType.INT64, (4,)),),
        max_batch_size=8,
        decoupled=True,
    )


def test_a_server_without_configurations_is_taken_by_its_metadata_alone() -> None:
    found = read_signature(metadata((-1, 3)), None, "2")
    assert (found.version, found.inputs[0].shape, found.max_batch_size, found.decoupled) == (
        "2",
        (-1, 3),
        0,
        False,
    )


@pytest.mark.parametrize("word", ["BYTES", "STRING", "TYPE_STRING"])
def test_strings_are_bytes(word: str) -> None:
    assert read_signature(metadata((1,), datatype=word), None, "").inputs[0].data_type is DataType.BYTES


def test_a_type_not_known_here_is_told_by_name() -> None:
    with pytest.raises(UpstreamFailed, match="'in0' of type \"FP8\", which is not known here"):
        read_signature(metadata((1,), datatype="FP8"), None, "")


def slot(data: bytes, offset: int = 64) -> Place:
    return Place(offset, memoryview(bytearray(data)))


@pytest.mark.parametrize("raw", [[bytes(8), b""], [bytes(8)]], ids=["an empty place", "left out"])
def test_an_output_in_a_slot_is_a_view_of_it(raw: list[bytes]) -> None:
    lent = slot(b"abcdefgh")
    answer = read_answer(
        Response(outputs=[tensor("a"), tensor("b")], raw_output_contents=raw), CALL, {"b": lent}
    )
    a, b = answer.outputs
    assert (bytes(a.data), a.at) == (bytes(8), None)
    assert (bytes(b.data), b.at, answer.slots) == (b"abcdefgh", 64, (lent,))


def test_an_answer_all_of_whose_outputs_are_in_slots_needs_no_contents() -> None:
    lent = slot(b"abcdefgh")
    (one,) = read_answer(Response(outputs=[tensor("a")]), CALL, {"a": lent}).outputs
    lent.view[0] = 0xFF
    assert bytes(one.data) == b"\xffbcdefgh"


def test_an_output_smaller_than_its_slot_takes_the_beginning_of_it() -> None:
    (one,) = read_answer(Response(outputs=[tensor("a", shape=(1,))]), CALL, {"a": slot(b"abcdefgh")}).outputs
    assert bytes(one.data) == b"abcd"


@pytest.mark.parametrize(
    "response",
    [
        Response(outputs=[tensor("a")], raw_output_contents=[b"12345678"]),
        Response(outputs=[tensor("a", elements=[1.0, 2.0])]),
    ],
    ids=["raw", "typed"],
)
def test_a_server_that_sends_bytes_although_a_slot_was_given_is_taken_at_its_bytes(response: Any) -> None:
    answer = read_answer(response, CALL, {"a": slot(b"abcdefgh")})
    assert bytes(answer.outputs[0].data) != b"abcdefgh"
    assert answer.slots == ()


@pytest.mark.parametrize(
    ("output", "says_so"),
    [
        (tensor("a", shape=(3,)), r"as FP32 \[3\] where its declaration takes 8 bytes"),
        (tensor("a", "BYTES", (1,)), "as BYTES"),
        (tensor("a", shape=(-1,)), "as FP32"),
        (tensor("a", shape=(-1, -1)), "negative length"),
    ],
)
def test_an_output_that_cannot_be_what_lies_in_the_slot_is_the_model_server_s_failure(
    output: Any, says_so: str
) -> None:
    with pytest.raises(UpstreamFailed, match=says_so):
        read_answer(Response(outputs=[output]), CALL, {"a": slot(b"abcdefgh")})


def test_an_output_told_to_lie_elsewhere_than_asked_for_is_the_model_server_s_failure() -> None:
    output = tensor("a")
    output.parameters["shared_memory_offset"].int64_param = 128
    with pytest.raises(UpstreamFailed, match="lies at 128, where 64 was asked for"):
        read_answer(Response(outputs=[output]), CALL, {"a": slot(b"abcdefgh")})


def test_contents_that_belong_to_no_output_are_the_model_server_s_failure() -> None:
    response = Response(outputs=[tensor("a"), tensor("b"), tensor("c")], raw_output_contents=[b""])
    with pytest.raises(UpstreamFailed, match="3 outputs but the contents of 1"):
        read_answer(response, CALL, {"a": slot(b"abcdefgh")})


def test_a_model_tells_how_long_it_waits_for_a_batch_and_how_many_it_runs() -> None:
    config = model_config_pb2.ModelConfig(max_batch_size=8)
    config.dynamic_batching.max_queue_delay_microseconds = 2500
    config.instance_group.add(count=2)
    config.instance_group.add(count=1)
    found = read_signature(metadata((-1, 3)), config, "")
    assert (found.batch_delay_us, found.instances) == (2500, 3)


def test_counters_are_those_of_all_versions_together() -> None:
    told = service_pb2.ModelStatisticsResponse()
    for version in ("1", "2"):
        one = told.model_stats.add(name="clip", version=version, inference_count=30, execution_count=10)
        one.inference_stats.success.count = 20
        one.inference_stats.queue.ns = 5
        one.inference_stats.compute_input.ns = 1
        one.inference_stats.compute_infer.ns = 100
        one.inference_stats.compute_output.ns = 7
        batch = one.batch_stats.add(batch_size=3)
        batch.compute_input.ns = 2
        batch.compute_infer.count, batch.compute_infer.ns = 10, 90
    found = wire.read_counters(told.SerializeToString(), "clip", 1000, 1600)
    assert (found.requests, found.rows, found.executions) == (40, 60, 20)
    assert (found.queue_ns, found.compute_ns, found.output_ns) == (10, 202, 14)
    assert found.batches == {3: (20, 184)}
    assert (found.at_ns, found.rtt_ns) == (1600, 600)


def test_counters_that_cannot_be_read_are_the_servers_failure() -> None:
    with pytest.raises(UpstreamFailed):
        wire.read_counters(b"\xff", "clip", 0, 1)
