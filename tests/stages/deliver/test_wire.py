from collections.abc import Sequence
from contextlib import suppress
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
from sidecar.stages.deliver.wire import check_complete, lay_request, read_event, varint

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
    assert expected == Request.FromString(laid)
    assert expected.ByteSize() == len(laid)


def test_the_views_of_many_axes_are_laid_whole() -> None:
    view = memoryview(bytes(range(24))).cast("B", (2, 3, 4))
    laid = lay_request(Call("m", (Tensor("x", DataType.UINT8, (2, 3, 4), view),)))
    assert [bytes(range(24))] == list(Request.FromString(laid).raw_input_contents)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_a_varint_takes_seven_bits_a_byte(number: int, expected: bytes) -> None:
    assert expected == varint(number)


def read_answer(response: Any, call: Call) -> Answer:
    return wire.read_answer(response.SerializeToString(), call)


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
