"""A recipe's normalisation as an ONNX model: what is left to do where pixels leave here as bare bytes.

The model looks values up, as pack does: an element's index is its byte, plus where the values of its channel begin
in one table of them all. The table has the reference's bits already, and a Gather moves bits: so what
comes out equals what pack would have made, on whatever device, which arithmetic in float32 cannot promise
(a division may be made a multiplication there). It is two constants and three operators, Cast, Add and Gather, of
opset 13: old enough for any onnxruntime in use.

Which element belongs to which channel is read off the recipe itself, by what it lays out of two pictures of
different shapes. Nothing here knows a family, and nothing here knows a model server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sidecar.errors import CallerError, RecipeError, SettingsError
from sidecar.media import DataType, Looked, Modality, Pixels, Shaped, TensorSpec
from sidecar.recipes.recipe import Recipe

# (height, width). Multiples of the patches there are, for recipes that are told not to resize; and of two
# aspect ratios, so that every axis that can vary does.
_SIZES: Final = ((1344, 2016), (2016, 672))
_OPSET: Final = 13
# The version of the file format that came with that opset: readers refuse versions above their own.
_IR_VERSION: Final = 7

VALUES: Final = (DataType.FP32, DataType.FP16)
"""What a model here can make of the bytes."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """How one output's bytes become its values.

    `table` is float32, 256 values for each channel that has others than those before; `offsets`, int32, is where in
    it those of each element begin, of a shape that broadcasts to the output's: [3, 1, 1] of pictures, [the length
    of a patch] of patches, [] where all channels have the same.
    """

    output: TensorSpec
    table: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Port:
    """A lookup's place in a model: what goes in as UINT8 and comes out as `data_type`, one of VALUES.

    `shape` is both sides', without batch axis; -1 where a length varies.
    """

    lookup: Lookup
    shape: tuple[int, ...]
    data_type: DataType

    @property
    def input(self) -> TensorSpec:
        return TensorSpec(self.lookup.output.name, DataType.UINT8, self.shape)

    @property
    def output(self) -> TensorSpec:
        return TensorSpec(f"{self.lookup.output.name}_normalized", self.data_type, self.shape)


def lookups(recipe: Recipe) -> tuple[Lookup, ...]:
    """One for each output that can be packed as UINT8; never none.

    Raises RecipeError where there is none, or where the values are not a byte's and its channel's alone.
    """
    specs = [spec for spec in recipe.outputs if recipe.accepts(spec.name, DataType.UINT8)]
    if recipe.modality is not Modality.IMAGE or not specs:
        raise RecipeError(
            f"{recipe.processor}: no output can be packed as UINT8, so that nothing is left for a model to"
            f" normalise; it makes {', '.join(spec.name for spec in recipe.outputs)}",
            key="data_type",
            value=DataType.UINT8.value,
        )
    found = [_of_picture(recipe, specs, size) for size in _SIZES]
    for one, other in zip(*found, strict=True):
        if one.offsets.tolist() != other.offsets.tolist() or one.table.tobytes() != other.table.tobytes():
            raise _unfit(recipe, one.output)
    return found[0]


def _of_picture(recipe: Recipe, specs: Sequence[TensorSpec], size: tuple[int, int]) -> tuple[Lookup, ...]:
    try:
        made = recipe.transform(Pixels(np.zeros((*size, 3), np.uint8)))
    except CallerError as error:
        raise RecipeError(
            f"{recipe.processor}: the layout cannot be read off a picture of {size[1]}x{size[0]}: {error.message}"
        ) from error
    shaped = {item.name: item for item in made}
    return tuple(_lookup(recipe, spec, shaped[spec.name]) for spec in specs)


def _lookup(recipe: Recipe, spec: TensorSpec, shaped: Shaped) -> Lookup:
    rows: dict[bytes, int] = {}
    parts = [_row_of_each(part, rows) for part in shaped.parts if isinstance(part, Looked)]
    if len(parts) < len(shaped.parts):
        raise _unfit(recipe, spec)
    places = np.concatenate(parts).reshape(shaped.shape)
    for axis, rule in enumerate(spec.shape):
        first = places.take([0], axis)
        if (places == first).all():
            places = first
        elif rule == -1:
            raise _unfit(recipe, spec)
    while places.ndim and places.shape[0] == 1:
        places = places[0]
    table = np.frombuffer(b"".join(rows), np.float32)
    return Lookup(spec, table, places * np.int32(table.size // len(rows)))


def _row_of_each(part: Looked, rows: dict[bytes, int]) -> npt.NDArray[np.int32]:
    """The number of the row of values for each element, in the order of the output. `rows` numbers those there are."""
    numbers = [rows.setdefault(row.tobytes(), len(rows)) for row in part.table]
    lengths = [length if axis == part.channel else 1 for axis, length in enumerate(part.view.shape)]
    return np.broadcast_to(np.array(numbers, np.int32).reshape(lengths), part.view.shape).reshape(-1)


def _unfit(recipe: Recipe, spec: TensorSpec) -> RecipeError:
    return RecipeError(
        f"{recipe.processor}: the values of {spec.name} do not follow from each byte and its place in a row of"
        " fixed length, and cannot be left to a model that looks them up",
        key="data_type",
        value=DataType.UINT8.value,
    )


def onnx_model(ports: Sequence[Port], says: str, *, batches: bool) -> bytes:
    """A serialised ONNX model of these ports, `batches` with a batch axis in front; `says` is for people.

    Raises SettingsError where the package onnx is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415 - an extra of its own
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"writing ONNX takes the package onnx, which cannot be imported here ({error}): pip install onnx, or"
            " install this package with its extra `export`",
            key="onnx",
        ) from error
    types = {
        DataType.UINT8: TensorProto.UINT8,
        DataType.FP32: TensorProto.FLOAT,
        DataType.FP16: TensorProto.FLOAT16,
    }
    inputs, nodes, constants, outputs = [], [], [], []
    for port in ports:
        name = port.input.name
        axes = [f"{name}_axis{at}" if length == -1 else length for at, length in enumerate(port.shape)]
        axes = ["batch", *axes] if batches else axes
        with np.errstate(over="ignore"):  # past FP16's range a value is infinite, as it is in pack
            table = port.lookup.table.astype(port.data_type.storage)
        constants += [
            numpy_helper.from_array(port.lookup.offsets, f"{name}_offsets"),
            numpy_helper.from_array(table, f"{name}_table"),
        ]
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_bytes"], to=TensorProto.INT32),
            helper.make_node("Add", [f"{name}_bytes", f"{name}_offsets"], [f"{name}_indices"]),
            helper.make_node("Gather", [f"{name}_table", f"{name}_indices"], [port.output.name], axis=0),
        ]
        inputs.append(helper.make_tensor_value_info(name, types[DataType.UINT8], axes))
        outputs.append(helper.make_tensor_value_info(port.output.name, types[port.data_type], axes))
    model = helper.make_model(
        helper.make_graph(nodes, "normalizer", inputs, outputs, constants),
        producer_name="sidecar",
        doc_string=says,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString()
