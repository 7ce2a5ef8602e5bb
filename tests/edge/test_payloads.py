"""What is read and laid by hand is what protobuf reads and lays."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from multimodal.v1 import media_pb2, preprocessor_pb2

from sidecar.edge import payloads
from sidecar.edge.payloads import read_request
from sidecar.media import DataType, Tensor

BIG = 20_000
INLINE = st.builds(
    lambda size, name: media_pb2.Media(inline=b"\x0a" * size, name=name, content_type="image/png"),
    st.sampled_from([0, 1, 300, BIG]),
    st.text(max_size=5),
)
CHUNKED = st.builds(
    lambda name: media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=7), name=name), st.text(max_size=5)
)
LINKED = st.builds(lambda name: media_pb2.Media(uri="https://media.test/a", name=name), st.text(max_size=5))
MEDIA = st.lists(st.one_of(INLINE, CHUNKED, LINKED, st.just(media_pb2.Media())), max_size=4)


def whole(request: payloads.Request[preprocessor_pb2.InferRequest]) -> preprocessor_pb2.InferRequest:
    """The request with its media put back."""
    message = preprocessor_pb2.InferRequest()
    message.CopyFrom(request.message)
    for index, item in enumerate(message.media):
        if item.WhichOneof("source") == "inline":
            item.inline = bytes(request.inline(index))
    return message


@given(MEDIA, st.binary(max_size=30))
def test_a_request_read_by_hand_is_the_one_that_was_sent(media: list[media_pb2.Media], data: bytes) -> None:
    sent = preprocessor_pb2.InferRequest(
        model="m",
        media=media,
        inputs=[media_pb2.Tensor(name="x", shape=[3, -1], data=data)],
        request_id="r",
        all_or_nothing=True,
    )
    assert whole(read_request(preprocessor_pb2.InferRequest, sent.SerializeToString())) == sent


def test_media_is_a_view_of_what_grpc_received_and_not_in_the_message() -> None:
    raw = preprocessor_pb2.InferRequest(media=[media_pb2.Media(inline=b"x" * BIG)]).SerializeToString()
    request = read_request(preprocessor_pb2.InferRequest, raw)
    found = request.inline(0)
    assert isinstance(found, memoryview)
    assert found.obj is raw
    assert request.message.ByteSize() < 100
    assert request.message.media[0].WhichOneof("source") == "inline"


def joined(*messages: preprocessor_pb2.InferRequest) -> bytes:
    """protobuf's rule: messages one after the other are one message."""
    return b"".join(message.SerializeToString() for message in messages)


def test_media_of_messages_joined_is_in_their_order() -> None:
    raw = joined(
        *(
            preprocessor_pb2.InferRequest(model=name, media=[media_pb2.Media(inline=name.encode() * BIG)])
            for name in ("a", "b")
        )
    )
    request = read_request(preprocessor_pb2.InferRequest, raw)
    assert request.message.model == "b"
    assert [bytes(request.inline(index)[:1]) for index in range(2)] == [b"a", b"b"]


@pytest.mark.parametrize(
    "twice",
    [
        media_pb2.Media(inline=b"x" * BIG).SerializeToString() * 2,
        media_pb2.Media(inline=b"x" * BIG).SerializeToString()
        + media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=3)).SerializeToString(),
        media_pb2.Media(chunked=media_pb2.Chunked(total_bytes=3)).SerializeToString()
        + media_pb2.Media(inline=b"x" * BIG).SerializeToString(),
        media_pb2.Media(inline=b"x" * BIG).SerializeToString()
        + media_pb2.Media(uri="https://media.test/a").SerializeToString(),
        media_pb2.Media(uri="https://media.test/a").SerializeToString()
        + media_pb2.Media(inline=b"x" * BIG).SerializeToString(),
    ],
)
def test_of_several_sources_the_last_counts_as_protobuf_has_it(twice: bytes) -> None:
    number = payloads.number_of(preprocessor_pb2.InferRequest, "media")
    raw = b"".join(payloads.laid(number, [twice]))
    expected = preprocessor_pb2.InferRequest.FromString(raw)
    assert whole(read_request(preprocessor_pb2.InferRequest, raw)) == expected


@given(st.data())
@settings(max_examples=200)
def test_damage_is_judged_as_protobuf_judges_it(data: st.DataObject) -> None:
    raw = bytearray(
        preprocessor_pb2.InferRequest(
            model="m", media=[media_pb2.Media(inline=b"\x08" * BIG, name="n")], request_id="r"
        ).SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        end = data.draw(st.sampled_from([20, len(raw)]))
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(BIG - 1000, len(raw))))])
    try:
        expected = preprocessor_pb2.InferRequest.FromString(cut)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_request(preprocessor_pb2.InferRequest, cut)
    else:
        assert whole(read_request(preprocessor_pb2.InferRequest, cut)) == expected


def test_millions_of_fields_are_left_to_protobuf() -> None:
    raw = preprocessor_pb2.InferRequest(outputs=[""] * 2_000_000).SerializeToString()
    raw += preprocessor_pb2.InferRequest(media=[media_pb2.Media(inline=b"x" * BIG)]).SerializeToString()
    request = read_request(preprocessor_pb2.InferRequest, raw)
    assert len(request.message.outputs) == 2_000_000
    assert request.media == ()
    assert request.inline(0) == b"x" * BIG


@given(
    st.text(max_size=9),
    st.lists(st.integers(0, 2**40), max_size=4),
    st.one_of(st.binary(max_size=300), st.binary(max_size=64).map(lambda data: memoryview(data))),  # noqa: PLW0108 - its type is generic
)
def test_a_tensor_laid_by_hand_is_what_protobuf_lays(
    name: str, shape: list[int], data: bytes | memoryview
) -> None:
    tensor = Tensor(name, DataType.FP32, tuple(shape), data)
    laid = b"".join(payloads.tensor(tensor, media_pb2.DATA_TYPE_FP32))
    assert media_pb2.Tensor.FromString(laid) == media_pb2.Tensor(
        name=name, data_type=media_pb2.DATA_TYPE_FP32, shape=shape, data=bytes(data)
    )
