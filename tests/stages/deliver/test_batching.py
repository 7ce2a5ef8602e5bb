import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import InvalidRequest, UpstreamFailed
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.stages.deliver.batching import Batch, Row, batches, chunk, join, replicate, rows_of, split, stack
from sidecar.stages.deliver.bindings import Binding, Bound, Grouping
from sidecar.stages.deliver.elements import decode, encode, fault
from sidecar.stages.deliver.upstream import Answer

FP32 = DataType.FP32
ITEM = TensorSpec("pixels", FP32, (2, -1))
PROMPT = Tensor("prompt", DataType.BYTES, (1,), encode([b"hello"]))


def tensor(*shape: int, fill: float = 0.0, name: str = "pixels") -> Tensor:
    return Tensor(name, FP32, shape, np.full(shape, fill, np.float32).tobytes())


def values(one: Tensor) -> list[float]:
    return [float(value) for value in np.frombuffer(one.data, np.float32)]


def binding(theirs: tuple[int, ...], most: int, grouping: Grouping) -> Binding:
    media = (Bound(ITEM, TensorSpec("pixels", FP32, theirs)),)
    return Binding("m", media, (TensorSpec("prompt", DataType.BYTES, (1,)),), grouping, most)


@st.composite
def rows_of_one_shape(draw: st.DrawFn) -> list[Tensor]:
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = draw(st.integers(1, 5))
    if draw(st.booleans()):
        texts = st.lists(st.binary(max_size=5), min_size=math.prod(shape), max_size=math.prod(shape))
        return [Tensor("t", DataType.BYTES, shape, encode(draw(texts))) for _ in range(count)]
    kind = draw(st.sampled_from([FP32, DataType.FP16, DataType.UINT8, DataType.INT64]))
    size = math.prod(shape) * kind.itemsize
    return [Tensor("t", kind, shape, draw(st.binary(min_size=size, max_size=size))) for _ in range(count)]


@given(rows_of_one_shape())
def test_what_is_stacked_splits_into_the_same_rows(rows: list[Tensor]) -> None:
    whole = stack(rows)
    assert fault(whole) is None
    back = split(Answer((whole,), "m", "1"), len(rows))
    assert [bytes(row.data) for row in rows] == [bytes(one.data) for (one,) in back]
    assert [row.shape for row in rows] == [one.shape for (one,) in back]


def test_one_row_is_not_copied() -> None:
    row = tensor(2, 3)
    assert stack([row]).data is row.data
    assert replicate(row, 1).data is row.data


def test_splitting_copies_nothing() -> None:
    whole = tensor(2, 3)
    ((first,), _) = split(Answer((whole,), "m", "1"), 2)
    assert isinstance(first.data, memoryview)
    assert first.data.obj is whole.data


def test_a_plain_input_is_the_same_in_every_row() -> None:
    whole = replicate(PROMPT, 3)
    assert whole.shape == (3, 1)
    assert decode(whole) == [b"hello"] * 3


@given(st.lists(st.sampled_from([(2, 1), (2, 2), (2, 3)]), max_size=20), st.integers(0, 5))
def test_chunks_hold_every_row_once_with_one_shape_and_no_more_than_fit(
    shapes: list[tuple[int, int]], most: int
) -> None:
    chunks = chunk([(tensor(*shape),) for shape in shapes], most)
    assert sorted(place for places in chunks for place in places) == list(range(len(shapes)))
    assert all(len({shapes[place] for place in places}) == 1 for places in chunks)
    assert all(len(places) <= max(1, most) for places in chunks)
    assert all(list(places) == sorted(places) for places in chunks)


@pytest.mark.parametrize(
    ("theirs", "most", "grouping", "items", "prompt"),
    [
        ((2, -1), 8, Grouping.EACH, [(2, 2, 3)], [(2, 1)]),
        ((2, -1), 1, Grouping.EACH, [(1, 2, 3), (1, 2, 3)], [(1, 1), (1, 1)]),
        ((2, -1), 0, Grouping.EACH, [(2, 3), (2, 3)], [(1,), (1,)]),
        ((-1, 2, -1), 0, Grouping.EACH, [(1, 2, 3), (1, 2, 3)], [(1,), (1,)]),
        ((1, 2, -1), 8, Grouping.EACH, [(2, 1, 2, 3)], [(2, 1)]),
        ((-1, 2, -1), 0, Grouping.TOGETHER, [(2, 2, 3)], [(1,)]),
        ((-1, 2, -1), 8, Grouping.TOGETHER, [(1, 2, 2, 3)], [(1, 1)]),
    ],
)
def test_each_way_of_feeding_two_items_gives_the_model_its_axes(
    theirs: tuple[int, ...],
    most: int,
    grouping: Grouping,
    items: list[tuple[int, ...]],
    prompt: list[tuple[int, ...]],
) -> None:
    bound = binding(theirs, most, grouping)
    rows: list[Row] = [(tensor(2, 3, fill=1),), (tensor(2, 3, fill=2),)]
    found = batches(bound, rows, [PROMPT])
    assert items == [batch.inputs[0].shape for batch in found]
    assert prompt == [batch.inputs[1].shape for batch in found]
    assert [value for batch in found for value in values(batch.inputs[0])] == [1.0] * 6 + [2.0] * 6
    assert all(fault(one) is None for batch in found for one in batch.inputs)


def test_items_of_differing_shapes_go_to_a_batching_model_in_batches_of_equal_shape() -> None:
    rows: list[Row] = [(tensor(2, 3),), (tensor(2, 4),), (tensor(2, 3),)]
    found = batches(binding((2, -1), 8, Grouping.EACH), rows, [])
    assert [batch.rows for batch in found] == [(0, 2), (1,)]


def test_items_of_differing_shapes_cannot_go_together() -> None:
    rows: list[Row] = [(tensor(2, 3),), (tensor(2, 4),)]
    with pytest.raises(InvalidRequest, match=r"item 0: \[2, 3\]; item 1: \[2, 4\]"):
        batches(binding((-1, 2, -1), 0, Grouping.TOGETHER), rows, [])


@pytest.mark.parametrize("grouping", list(Grouping))
@pytest.mark.parametrize(("most", "prompt"), [(0, (1,)), (8, (1, 1))])
def test_without_media_the_plain_inputs_are_one_batch(
    grouping: Grouping, most: int, prompt: tuple[int, ...]
) -> None:
    bound = binding((2, -1), most, grouping)
    (batch,) = batches(bound, [], [PROMPT])
    assert (batch.rows, [one.shape for one in batch.inputs]) == ((), [prompt])
    whole = Answer((tensor(1, 4) if most else tensor(4),), "m", "1")
    assert [[one.shape for one in row] for row in rows_of(bound, batch, whole)] == [[(4,)]]


@pytest.mark.parametrize(
    ("most", "grouping", "answered", "expected"),
    [
        (8, Grouping.EACH, (2, 4), [(4,), (4,)]),
        (8, Grouping.TOGETHER, (1, 4), [(4,)]),
        (0, Grouping.EACH, (7, 4), [(7, 4)]),
        (0, Grouping.TOGETHER, (7, 4), [(7, 4)]),
    ],
)
def test_answers_lose_the_batch_axis_where_there_is_one(
    most: int, grouping: Grouping, answered: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    batch = Batch((0, 1), ())
    rows = rows_of(binding((2, -1), most, grouping), batch, Answer((tensor(*answered),), "m", "1"))
    assert expected == [one.shape for (one,) in rows]


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), ()])
def test_an_answer_with_another_number_of_rows_is_the_model_server_s_failure(shape: tuple[int, ...]) -> None:
    with pytest.raises(UpstreamFailed, match="for a batch of 2") as failure:
        split(Answer((tensor(*shape, name="out"),), "m", "1"), 2)
    assert failure.value.facts["model"] == "m"


@pytest.mark.parametrize("grouping", Grouping)
def test_what_is_sent_bears_the_model_s_names(grouping: Grouping) -> None:
    ours, theirs = TensorSpec("pixels", DataType.FP32, (2,)), TensorSpec("image", DataType.FP32, (-1, 2))
    bound = Binding("vision", (Bound(ours, theirs),), (), grouping, 0)
    (batch, *_) = batches(bound, [(tensor(2, name="pixels"),)] * 2, ())
    assert [one.name for one in batch.inputs] == ["image"]


PATCHES = TensorSpec("patches", FP32, (-1, 2), rows=True)
GRID = TensorSpec("grid", FP32, (1, 3), rows=True)
SIZE = TensorSpec("size", FP32, (2,))


def patched(most: int, grouping: Grouping) -> Binding:
    media = (
        Bound(PATCHES, TensorSpec("patches", FP32, (-1, 2))),
        Bound(GRID, TensorSpec("grid", FP32, (-1, 3))),
        Bound(SIZE, TensorSpec("size", FP32, (-1, 2) if grouping is Grouping.TOGETHER else (2,))),
    )
    return Binding("m", media, (), grouping, most)


def row(patches: int, fill: float) -> Row:
    return (
        tensor(patches, 2, fill=fill, name="patches"),
        tensor(1, 3, fill=fill, name="grid"),
        tensor(2, fill=fill, name="size"),
    )


@pytest.mark.parametrize("most", [0, 4])
def test_rows_of_items_together_follow_one_another_however_many_each_has(most: int) -> None:
    (batch,) = batches(patched(most, Grouping.TOGETHER), [row(2, 1), row(3, 2), row(1, 3)], [])
    front = (1,) if most else ()
    assert [one.shape for one in batch.inputs] == [(*front, 6, 2), (*front, 3, 3), (*front, 3, 2)]
    assert values(batch.inputs[0]) == [1.0] * 4 + [2.0] * 6 + [3.0] * 2
    assert [fault(one) for one in batch.inputs] == [None] * 3


def test_rows_of_each_item_stay_as_they_are() -> None:
    found = batches(patched(0, Grouping.EACH), [row(2, 1), row(3, 2)], [])
    assert [one.inputs[0].shape for one in found] == [(2, 2), (3, 2)]
    found = batches(patched(4, Grouping.EACH), [row(2, 1), row(3, 2), row(2, 3)], [])
    assert [(one.rows, one.inputs[0].shape) for one in found] == [((0, 2), (2, 2, 2)), ((1,), (1, 3, 2))]


def test_rows_that_the_model_takes_behind_axes_of_length_one_go_an_item_a_row() -> None:
    media = (
        Bound(PATCHES, TensorSpec("patches", FP32, (-1, 1, -1, 2))),
        Bound(GRID, TensorSpec("grid", FP32, (3,))),
        Bound(SIZE, TensorSpec("size", FP32, (2,))),
    )
    found = batches(Binding("m", media, (), Grouping.EACH, 4), [row(2, 1), row(3, 2), row(2, 3)], [])
    assert [[one.shape for one in batch.inputs] for batch in found] == [
        [(2, 1, 1, 2, 2), (2, 3), (2, 2)],
        [(1, 1, 1, 3, 2), (1, 3), (1, 2)],
    ]
    assert all(fault(one) is None for batch in found for one in batch.inputs)


def test_joined_rows_that_follow_one_another_in_the_arena_are_not_copied() -> None:
    arena = memoryview(bytearray(64))
    parts = [
        Tensor("p", FP32, (1, 2), arena[8:16], 8),
        Tensor("p", FP32, (3, 2), arena[16:40], 16),
    ]
    joined = join(parts)
    assert (joined.at, joined.shape, joined.nbytes) == (8, (4, 2), 32)
    arena[8] = 9
    assert joined.data[0] == 9
    assert join(parts[::-1]).at is None
