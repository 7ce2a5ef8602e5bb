"""What is known of a message that is passed on, held against protobuf's own idea of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from sidecar.edge.open_inference import messages
from sidecar.edge.open_inference.envelope import Envelope
from sidecar.errors import InvalidInput, InvalidRequest

names = st.text(max_size=20)


@given(model=names, version=names, request_id=names, raw=st.lists(st.binary(max_size=300), max_size=4))
def test_the_model_is_found_and_changed_as_protobuf_would(
    model: str, version: str, request_id: str, raw: list[bytes]
) -> None:
    request = service_pb2.ModelInferRequest(
        model_name=model, model_version=version, id=request_id, raw_input_contents=raw
    )
    sent = request.SerializeToString()
    assert Envelope.of(sent).model() == model
    request.model_name = "another"
    assert service_pb2.ModelInferRequest.FromString(Envelope.of(sent).aimed("another", "")) == request
    request.model_version = "7"
    assert service_pb2.ModelInferRequest.FromString(Envelope.of(sent).aimed("another", "7")) == request


def test_of_a_name_that_is_given_twice_the_last_one_counts_as_for_protobuf() -> None:
    one = service_pb2.ModelInferRequest(model_name="open").SerializeToString()
    other = service_pb2.ModelInferRequest(model_name="closed").SerializeToString()
    assert Envelope.of(one + other).model() == "closed"
    assert service_pb2.ModelInferRequest.FromString(one + other).model_name == "closed"
    assert service_pb2.ModelInferRequest.FromString(Envelope.of(one + other).aimed("x", "")).model_name == "x"


def test_a_key_that_others_would_cut_is_left_to_protobuf() -> None:
    named = service_pb2.ModelInferRequest(model_name="clip").SerializeToString()
    # Field 1 once more, by a key of 33 bits: cut to 32 it would be another name.
    with pytest.raises(InvalidRequest):
        Envelope.of(named + bytes([0x8A, 0x80, 0x80, 0x80, 0x10, 6]) + b"secret").model()


@given(st.binary(max_size=200))
def test_what_is_no_message_is_an_error_of_ours_or_a_name(data: bytes) -> None:
    try:
        envelope = Envelope.of(data)
        envelope.model()
        messages.read(envelope)
    except (InvalidRequest, InvalidInput):
        pass
