"""From items to the requests that a model takes, and from its answers back to items.

Pure. A row is what one item gives: a packed tensor for each of the binding's media inputs, in its
order, by the recipe's names, shaped without batch or items axis; what is sent bears the model's names.
Joining copies nothing for a single row, and nothing for rows that follow one another in the arena; else
each byte once. Splitting an answer copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sidecar.errors import InvalidRequest, UpstreamFailed
from sidecar.media import DataType, Tensor
from sidecar.stages.deliver.bindings import Binding, Grouping
from sidecar.stages.deliver.elements import ends
from sidecar.stages.deliver.naming import shape_words, tensor_words
from sidecar.stages.deliver.upstream import Answer

Row = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One request's worth: which rows are in it, by their place, and its inputs, axes and all."""

    rows: tuple[int, ...]
    inputs: tuple[Tensor, ...]


def batches(binding: Binding, rows: Sequence[Row], plain: Sequence[Tensor]) -> tuple[Batch, ...]:
    """Everything a request sends to the model: `rows` from its items, `plain` from its caller.

    Without rows it is one batch of plain inputs alone. Grouping EACH gives a batch for every run of
    rows that one request to the model can hold, and the plain inputs go along with every row.
    Raises InvalidRequest where grouping TOGETHER meets items of differing shapes.
    """
    if binding.grouping is Grouping.EACH and rows:
        return tuple(
            Batch(places, _each(binding, [rows[place] for place in places], plain))
            for places in chunk(rows, binding.max_batch_size)
        )
    return (Batch(tuple(range(len(rows))), _together(binding, rows, plain)),)


def rows_of(binding: Binding, batch: Batch, answer: Answer) -> tuple[Row, ...]:
    """A model's answer to a batch without its batch axis: an entry a row, or one for the whole.

    There is an entry for every row of the batch, in its order, under grouping EACH, and else one.
    Raises UpstreamFailed where an output's batch axis is not as long as the request's.
    """
    if not binding.batches:
        return (answer.outputs,)
    each = binding.grouping is Grouping.EACH and batch.rows
    return split(answer, len(batch.rows) if each else 1)


def chunk(rows: Sequence[Row], most: int) -> tuple[tuple[int, ...], ...]:
    """Places of the rows, in runs of equal shapes and at most `most` (0 as 1) rows, in order of first place."""
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(tuple(tensor.shape for tensor in row), []).append(place)
    size = max(1, most)
    return tuple(
        tuple(places[begin : begin + size])
        for places in alike.values()
        for begin in range(0, len(places), size)
    )


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one name, type and shape [...] to one of shape [n, ...]."""
    first = tensors[0]
    shape = (len(tensors), *first.shape)
    if len(tensors) == 1:
        return replace(first, shape=shape)
    if (data := _neighbours(tensors)) is not None:
        return replace(first, shape=shape, data=data)
    return replace(first, shape=shape, data=b"".join(tensor.data for tensor in tensors), at=None)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one name and type, [n, ...] each, to one of shape [sum of n, ...]."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    shape = (sum(tensor.shape[0] for tensor in tensors), *first.shape[1:])
    if (data := _neighbours(tensors)) is not None:
        return replace(first, shape=shape, data=data)
    return replace(first, shape=shape, data=b"".join(tensor.data for tensor in tensors), at=None)


def _neighbours(tensors: Sequence[Tensor]) -> memoryview | None:
    """The memory of tensors that follow one another in the arena, as one piece; None where they do not."""
    first = tensors[0]
    if first.at is None or not isinstance(first.data, memoryview):
        return None
    end = first.at
    for tensor in tensors:
        if tensor.at != end:
            return None
        end += tensor.nbytes
    return memoryview(first.data.obj).cast("B")[first.at : end]


def replicate(tensor: Tensor, rows: int) -> Tensor:
    """The same tensor [...] for every one of `rows` rows: [rows, ...]."""
    return stack([tensor] * rows)


def split(answer: Answer, rows: int) -> tuple[Row, ...]:
    """The outputs [rows, ...] of an answer as views, one [...] of each output a row.

    Raises UpstreamFailed for an output whose first axis has another length, or that has none.
    """
    columns = [_split(tensor, rows, answer.model) for tensor in answer.outputs]
    return tuple(tuple(column[row] for column in columns) for row in range(rows))


def _each(binding: Binding, rows: Sequence[Row], plain: Sequence[Tensor]) -> tuple[Tensor, ...]:
    columns = [
        [replace(tensor, shape=bound.laid(tensor.shape)) for tensor in column]
        for bound, column in zip(binding.media, _columns(binding, rows), strict=True)
    ]
    if not binding.batches:
        return (*(tensor for (tensor,) in columns), *plain)
    return (*map(stack, columns), *(replicate(tensor, len(rows)) for tensor in plain))


def _together(binding: Binding, rows: Sequence[Row], plain: Sequence[Tensor]) -> tuple[Tensor, ...]:
    fixed = [
        tuple(
            replace(tensor, shape=tensor.shape[1:]) if bound.joins else tensor
            for bound, tensor in zip(binding.media, row, strict=True)
        )
        for row in rows
    ]
    if len(chunk(fixed, len(rows))) > 1:
        shapes = "; ".join(
            f"item {place}: {', '.join(shape_words(tensor.shape) for tensor in row)}"
            for place, row in enumerate(rows)
        )
        raise InvalidRequest(
            f"model {binding.model!r} takes all items of a request in one tensor, and theirs differ in "
            f"shape ({shapes}); send items of equal shape, or each in a request of its own",
            field="media",
        )
    columns = zip(binding.media, _columns(binding, rows), strict=False)
    inputs = (*((join if bound.joins else stack)(column) for bound, column in columns), *plain)
    return tuple(stack([tensor]) for tensor in inputs) if binding.batches else inputs


def _columns(binding: Binding, rows: Sequence[Row]) -> list[list[Tensor]]:
    """The rows' tensors by input, under the model's names for them; nothing without rows."""
    if not rows:
        return []
    return [
        [replace(tensor, name=bound.input.name) for tensor in column]
        for bound, column in zip(binding.media, zip(*rows, strict=True), strict=True)
    ]


def _split(tensor: Tensor, rows: int, model: str) -> list[Tensor]:
    if not tensor.shape or tensor.shape[0] != rows:
        raise UpstreamFailed(
            f"output {tensor.name!r} of model {model!r} is {tensor_words(tensor)} for a batch of {rows}; "
            "its first axis must be the batch, so correct the model",
            model=model,
        )
    shape, view = tensor.shape[1:], memoryview(tensor.data).cast("B")
    cuts = _cuts(tensor, rows)
    return [Tensor(tensor.name, tensor.data_type, shape, view[begin:end]) for begin, end in pairwise(cuts)]


def _cuts(tensor: Tensor, rows: int) -> list[int]:
    """Where the rows of a well-formed tensor begin and end, in bytes: rows + 1 places."""
    if tensor.data_type is DataType.BYTES:
        walked, step = [0, *(ends(tensor) or ())], tensor.elements // rows
        return [walked[row * step] for row in range(rows + 1)]
    step = tensor.nbytes // rows
    return [row * step for row in range(rows + 1)]
