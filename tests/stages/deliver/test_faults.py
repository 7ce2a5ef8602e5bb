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
from sidecar.stages.deliver.faults import (
    MAX_QUOTE,
    is_in_doubt,
    is_too_small,
    is_unknown_region,
    of_status,
    of_stream,
    quote,
)

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
        (Status.NOT_FOUND, "Unable to find shared memory region: 'sidecar-1'", UpstreamFailed),
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


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (Status.UNAVAILABLE, "Socket closed", True),
        (Status.UNAVAILABLE, "Server is stopping, scheduler for model has stopped", True),
        (Status.UNAVAILABLE, "Exceeds maximum queue size", False),
        (Status.CANCELLED, "", True),
        (Status.DEADLINE_EXCEEDED, "Deadline Exceeded", True),
        (Status.INTERNAL, "Received RST_STREAM with error code 2", True),
        (Status.UNKNOWN, "Stream removed", True),
        (Status.INTERNAL, "this model always fails", False),
        (Status.INVALID_ARGUMENT, "unexpected shape", False),
    ],
)
def test_it_is_known_which_ends_leave_a_call_s_fate_open(
    code: grpc.StatusCode, words: str, expected: bool
) -> None:
    assert expected == is_in_doubt(code, words)


def test_triton_s_words_about_regions_are_known() -> None:
    assert is_unknown_region("Unable to find shared memory region: 'psm_c1d1fa3d'")
    assert not is_unknown_region("Request for unknown model: 'm' is not found")
    assert is_too_small(
        "shared memory size specified with the request for output 'numbers' (799996 bytes) should be at least "
        "800000 bytes to hold the results"
    )
    assert not is_too_small("my model: the picture should be at least 8 pixels wide")
