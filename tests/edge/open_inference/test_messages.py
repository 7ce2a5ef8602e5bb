"""Triton's messages as they are read and laid here, held against protobuf's own idea of them."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from sidecar.edge.open_inference import messages
from sidecar.edge.open_inference.envelope import Envelope
from sidecar.errors import InvalidInput, InvalidRequest
from sidecar.media import DataType, Tensor
from sidecar.observe.timings import ModelTimes, Stage, Timings


@pytest.mark.parametrize(
    ("data_type", "field", "values", "wanted"),
    [
        ("FP32", "fp32_contents", [1.5, -2.0], np.array([1.5, -2.0], np.float32)),
        ("INT8", "int_contents", [-3, 4], np.array([-3, 4], np.int8)),
        ("UINT64", "uint64_contents", [2**63, 1], np.array([2**63, 1], np.uint64)),
        ("BOOL", "bool_contents", [True, False], np.array([True, False])),
    ],
)
def test_typed_contents_are_read_as_raw_ones(
    data_type: str, field: str, values: list[object], wanted: np.ndarray
) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    entry = request.inputs.add(name="x", datatype=data_type, shape=[2])
    getattr(entry.contents, field).extend(values)
    (read,) = messages.read(Envelope.of(request.SerializeToString())).inputs
    assert read.tensor() == Tensor("x", DataType(data_type), (2,), wanted.tobytes())


def request(**more: object) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="m")
    made.inputs.add(name="x", datatype="FP32", shape=[2], **more)
    return made


def test_contents_that_do_not_fit_their_inputs_are_refused() -> None:
    short = request()
    short.raw_input_contents.append(b"\0" * 4)
    with pytest.raises(InvalidInput, match="holds 4 bytes"):
        messages.read(Envelope.of(short.SerializeToString())).inputs[0].tensor()
    many = request()
    many.raw_input_contents.extend([b"\0" * 8] * 2)
    with pytest.raises(InvalidRequest, match="2 raw contents for 1 inputs"):
        messages.read(Envelope.of(many.SerializeToString()))
    wide = request()
    wide.inputs[0].datatype = "INT8"
    wide.inputs[0].contents.int_contents.extend([1, 300])
    with pytest.raises(InvalidInput, match="INT8 cannot hold"):
        messages.read(Envelope.of(wide.SerializeToString()))
    strange = request()
    strange.inputs[0].datatype = "INT4"
    with pytest.raises(InvalidInput, match="'INT4', which is not known"):
        messages.read(Envelope.of(strange.SerializeToString()))


def test_a_place_below_nothing_is_refused() -> None:
    placed = request()
    placed.inputs[0].parameters["shared_memory_region"].string_param = "r"
    placed.inputs[0].parameters["shared_memory_offset"].int64_param = -1
    placed.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8
    with pytest.raises(InvalidRequest, match="region 'r' at -1"):
        messages.read(Envelope.of(placed.SerializeToString()))


def test_the_protocols_own_parameters_are_kept_apart_and_handed_on_as_they_were() -> None:
    made = request()
    made.raw_input_contents.append(b"\0" * 8)
    made.parameters["sequence_id"].int64_param = 4
    made.parameters["priority"].uint64_param = 2
    made.parameters["mine"].string_param = "x"
    made.parameters["triton_enable_empty_final_response"].bool_param = True
    read = messages.read(Envelope.of(made.SerializeToString()))
    assert read.reserved == {"sequence_id": 4}
    assert read.parameters == {"priority": 2, "mine": "x"}
    assert read.wants_final


def test_a_reply_is_what_protobuf_reads_with_its_times_as_parameters() -> None:
    made = messages.read(Envelope.of(request(parameters={}).SerializeToString() + b""))
    outputs = [
        Tensor("a", DataType.FP32, (1, 2), np.array([1, 2], np.float32).tobytes()),
        Tensor("b", DataType.BYTES, (1,), b"\x01\0\0\0z"),
    ]
    laid = messages.reply(made, outputs, "3", final=True)
    told = service_pb2.ModelInferResponse.FromString(
        laid.stamped(Timings({Stage.DECODE: 5}, 7), ModelTimes(1, 2, 3))
    )
    assert [output.name for output in told.outputs] == ["a", "b"]
    assert told.raw_output_contents[1] == b"\x01\0\0\0z"
    assert told.parameters["sidecar_decode_ns"].int64_param == 5
    assert told.parameters["sidecar_gap_ns"].int64_param == 2
    assert told.parameters["triton_final_response"].bool_param
    event = service_pb2.ModelStreamInferResponse.FromString(messages.event(laid.laid()))
    assert event.infer_response == told
    wrong = messages.event_of_error("no", made)
    assert messages.words_of(wrong) == "no"
    assert messages.words_of(messages.event(laid.laid())) == ""
