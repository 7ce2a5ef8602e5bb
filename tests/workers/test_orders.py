"""Descriptors cross whole; a report that no honest worker sends moves nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.deadline import Deadline
from sidecar.errors import CorruptMedia, DeadlineExceeded, InternalError, Overloaded, SidecarError
from sidecar.media import DataType, ImageInfo, Source, Tensor
from sidecar.observe.timings import Stage
from sidecar.recipes.loader import load_recipe
from sidecar.workers.orders import MOST_BYTES, lay_order, lay_report, read_order, read_report, report_number
from sidecar.workers.worker import Done, Job, Outlet

CLIP = load_recipe(Path(__file__).parents[2] / "testbed" / "checkpoints" / "clip-vit-base-patch32")
ARENA = memoryview(bytearray(1 << 20))
INFO = ImageInfo("jpeg", 5, 640, 480, "RGB")


def job() -> Job:
    return Job(
        Source(ARENA[4096:4101], "image/jpeg", "item 2 (cat.jpg)"),
        INFO,
        CLIP,
        CLIP.decode_target(INFO),
        {"pixel_values": DataType.FP16},
        Deadline(77),
        4096,
        {"pixel_values": Outlet(8192, ARENA[8192 : 8192 + 2 * 3 * 224 * 224])},
    )


def test_an_order_says_all_of_a_job_and_carries_none_of_its_bytes() -> None:
    ARENA[4096:4101] = b"bytes"
    laid = lay_order(5, job())
    assert b"bytes" not in laid
    number, read = read_order(laid, ARENA)
    assert number == 5
    assert bytes(read.source.data) == b"bytes"
    assert isinstance(read.source.data, memoryview)
    assert read.source.data.readonly
    assert read.outlets is not None
    outlet = read.outlets["pixel_values"]
    assert (outlet.at, outlet.data.nbytes, outlet.data.readonly) == (8192, 2 * 3 * 224 * 224, False)
    assert replace(read, source=job().source, outlets=job().outlets) == job()


def test_a_job_outside_the_arena_cannot_be_ordered() -> None:
    with pytest.raises(InternalError):
        lay_order(1, replace(job(), source_at=None))
    with pytest.raises(InternalError):
        lay_order(1, replace(job(), outlets=None))


def test_an_order_too_long_for_the_channel_is_told_before_it_is_sent() -> None:
    long = replace(job(), source=Source(b"", label="x" * MOST_BYTES))
    with pytest.raises(InternalError, match="longer than"):
        lay_order(1, long)


def report_of(done: Done) -> Done:
    number, report = report_number(lay_report(9, done))
    assert number == 9
    return read_report(report, job())


def test_a_report_says_where_the_tensors_are_and_what_they_took() -> None:
    tensor = Tensor("pixel_values", DataType.FP16, (3, 224, 224), ARENA[8192 : 8192 + 301_056], 8192)
    done = Done((tensor,), None, [(Stage.DECODE, 1, 8), (Stage.PACK, 8, 11)], 1.5)
    assert report_of(done) == done


def test_a_report_says_how_much_room_was_missing() -> None:
    assert report_of(Done((), None, [], 0.5, {"pixel_values": 10**9})).needed == {"pixel_values": 10**9}


@pytest.mark.parametrize(
    "problem",
    [
        CorruptMedia("item 0 is damaged", found=3),
        DeadlineExceeded("late", stage="decode"),
        Overloaded("full", retry_after_s=2.5),
        InternalError("a fault"),
    ],
)
def test_a_problem_arrives_as_the_error_it_was(problem: SidecarError) -> None:
    found = report_of(Done((), problem, [], 0.0)).problem
    assert type(found) is type(problem)
    assert (found.message, found.facts) == (problem.message, problem.facts)


def test_a_report_too_long_for_the_channel_becomes_a_fault_of_ours() -> None:
    found = report_of(Done((), CorruptMedia("x" * MOST_BYTES), [], 0.0)).problem
    assert isinstance(found, InternalError)


GOOD: dict[str, Any] = {
    "number": 9,
    "tensors": [["pixel_values", "FP16", [3, 224, 224]]],
    "problem": None,
    "marks": [["decode", 1, 2]],
    "cpu_ms": 1.0,
    "needed": {},
}


@pytest.mark.parametrize(
    "lie",
    [
        {"tensors": [["pixel_values", "FP32", [3, 224, 224]]]},
        {"tensors": [["pixel_values", "FP16", [3, 224, 2**60]]]},
        {"tensors": [["pixel_values", "FP16", [-3, -224, 224]]]},
        {"tensors": [["pixel_values", "FP16", "abc"]]},
        {"tensors": [["other", "FP16", [1]]]},
        {"tensors": [["pixel_values", "FP99", [1]]]},
        {"tensors": [["pixel_values", "FP16", [1], 0]]},
        {"tensors": 3},
        {"marks": [["sleep", 1, 2]]},
        {"marks": [["decode", 2, 1]]},
        {"marks": [["decode", 1]]},
        {"marks": [["decode", 1.5, 2]]},
        {"marks": 1},
        {"cpu_ms": "much"},
        {"cpu_ms": None},
        {"problem": ["CorruptMedia"]},
        {"problem": ["CorruptMedia", "text", 3]},
        {"needed": 5},
    ],
)
def test_a_report_that_no_honest_worker_sends_is_refused(lie: dict[str, Any]) -> None:
    assert read_report(GOOD, job()).tensors
    with pytest.raises(ValueError, match=r".*"):
        read_report(GOOD | lie, job())


@pytest.mark.parametrize("name", ["SidecarError", "Exception", "os.system", "MediaError", ""])
def test_a_report_can_name_leaves_of_the_error_tree_only(name: str) -> None:
    assert type(read_report(GOOD | {"problem": [name, "text", {}]}, job()).problem) is InternalError


@pytest.mark.parametrize("laid", [b"", b"[]", b"{}", b'{"number": "1"}', b"\xff", b"not json"])
def test_nonsense_on_the_channel_is_a_value_error(laid: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        report_number(laid)


def test_reports_are_no_pickles() -> None:
    assert json.loads(lay_report(1, Done((), None, [], 0.0)))["number"] == 1
