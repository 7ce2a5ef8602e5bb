import grpc
import pytest

from sidecar.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnimplemented,
)
from sidecar.stages.deliver.faults import MAX_QUOTE, of_status, of_stream, quote

Status = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (Status.UNAVAILABLE, "[request id: 7] Exceeds maximum queue size", UpstreamBusy),
        (Status.UNAVAILABLE, "Request timeout expired", UpstreamBusy),
        (Status.UNAVAILABLE, "Request for unknown model: 'm' is not at ready state", UpstreamModelMissing),
        (Status.UNAVAILABLE, "Server is stopping, scheduler for model has stopped", UpstreamUnavailable),
        (Status.UNAVAILABLE, "failed to connect to all addresses", UpstreamUnavailable),
        (Status.UNAVAILABLE, "Stream removed (Socket closed)", UpstreamUnavailable),
        (Status.INVALID_ARGUMENT, "unexpected shape for input 'x'", UpstreamRejected),
        (Status.NOT_FOUND, "Request for unknown model: 'm' has no available versions", UpstreamModelMissing),
        (Status.UNIMPLEMENTED, "ModelInfer RPC doesn't support models with", UpstreamUnimplemented),
        (Status.DEADLINE_EXCEEDED, "Deadline Exceeded", UpstreamTimeout),
        (Status.RESOURCE_EXHAUSTED, "too busy", UpstreamBusy),
        (Status.RESOURCE_EXHAUSTED, "Sent message larger than max (9 vs. 4)", UpstreamRejected),
        (Status.CANCELLED, "", UpstreamFailed),
        (Status.INTERNAL, "Request timeout expired in a model of mine", UpstreamFailed),
        (Status.UNKNOWN, "", UpstreamFailed),
        (Status.ABORTED, "", UpstreamFailed),
        (Status.DATA_LOSS, "", UpstreamFailed),
        (Status.PERMISSION_DENIED, "", UpstreamFailed),
    ],
)
def test_a_status_keeps_its_meaning(code: grpc.StatusCode, words: str, expected: type[UpstreamError]) -> None:
    error = of_status(code, words, "clip")
    assert type(error) is expected
    assert "model 'clip'" in error.message
    assert words in error.message
    assert error.facts == {"model": "clip", "status": code.name}


@pytest.mark.parametrize("code", [code for code in Status if code is not Status.OK])
def test_every_status_means_something(code: grpc.StatusCode) -> None:
    assert isinstance(of_status(code, "", "clip"), UpstreamError)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("[request id: <id_unknown>] Exceeds maximum queue size", UpstreamBusy),
        ("Server is stopping, scheduler for model has stopped accepting", UpstreamUnavailable),
        ("Request for unknown model: 'm' is not found", UpstreamModelMissing),
        ("unexpected inference input 'q' for model 'm'", UpstreamRejected),
        ("expected 1 inputs but got 0 inputs for model 'm'", UpstreamRejected),
        ("input byte size mismatch for input 'x' for model 'm'. Expected 8, got 4", UpstreamRejected),
        ("inference input 'x' data-type is 'FP32', but model 'm' expects 'FP16'", UpstreamRejected),
        ("the weights are on fire", UpstreamFailed),
    ],
)
def test_words_inside_a_stream_keep_their_meaning(words: str, expected: type[UpstreamError]) -> None:
    assert type(of_stream(words, "clip")) is expected


def test_quoted_words_are_one_short_printable_line() -> None:
    assert quote("a\n\tb\x00c  d\x1b[0m") == '"a b c d [0m"'
    assert len(quote("word " * 1000)) == MAX_QUOTE + 2
