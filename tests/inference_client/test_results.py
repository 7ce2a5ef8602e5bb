"""Results as people and programs read them."""

from __future__ import annotations

import numpy as np
import pytest

from inference_client import CorruptMedia, Cost, Inference, MediaInfo, Modality, StageTimes, StreamOutputs

TIMES = StageTimes(receive_ns=250_000, decode_ns=5_000_000, gap_ns=750_000, total_ns=6_000_000)
TEXTS = np.array([b"caf\xc3\xa9", b"tea"], object)


def inference(**tensors: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Inference:
    info = MediaInfo(Modality.IMAGE, "jpeg", 9)
    return Inference(tensors=tensors, info=info, times=TIMES, cost=Cost())


def test_times_are_told_in_milliseconds_in_the_order_of_the_path() -> None:
    assert list(TIMES.ms) == [
        *("receive", "probe", "admit", "decode", "transform", "pack", "deliver", "respond", "gap", "total")
    ]
    assert (TIMES.ms["decode"], TIMES.total_ms) == (5.0, 6.0)


def test_times_print_as_a_table_with_shares_of_the_total() -> None:
    lines = str(TIMES).splitlines()
    assert len(lines) == 11
    assert lines[4].split() == ["decode", "5.000", "83.3"]
    assert lines[-1].split() == ["total", "6.000", "100.0"]


def test_times_that_were_never_taken_still_print() -> None:
    assert str(StageTimes()).splitlines()[-1].split() == ["total", "0.000", "0.0"]


def test_the_only_tensor_needs_no_name() -> None:
    assert inference(y=np.arange(2)).tensor().tolist() == [0, 1]


@pytest.mark.parametrize(("name", "told"), [(None, "without a name"), ("z", "no 'z'")])
def test_a_wrong_tensor_name_is_answered_with_the_names_there_are(name: str | None, told: str) -> None:
    with pytest.raises(KeyError, match=f"{told}.*a, b"):
        inference(a=np.arange(2), b=np.arange(2)).tensor(name)


def test_texts_are_decoded() -> None:
    assert inference(t=TEXTS, n=np.arange(2)).texts("t") == ["café", "tea"]
    assert inference(t=TEXTS[1:]).text() == "tea"


def test_text_of_several_elements_is_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        inference(t=TEXTS).text()


def test_numbers_are_no_texts() -> None:
    with pytest.raises(TypeError, match="BYTES"):
        inference(n=np.arange(2)).texts()


def test_a_result_shows_shapes_rather_than_numbers() -> None:
    shown = repr(inference(y=np.zeros((2, 3), np.float32)))
    assert shown == "Inference(y=float32[2, 3], image jpeg, 6.000 ms)"
    assert repr(StreamOutputs(tensors={}, index=3)) == "StreamOutputs(index 3)"


def test_a_failed_result_shows_its_problem() -> None:
    failed = Inference(tensors={}, info=None, times=TIMES, cost=Cost(), problem=CorruptMedia("cut short"))
    assert "problem=CorruptMedia('cut short')" in repr(failed)
