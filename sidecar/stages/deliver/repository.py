"""A Triton model repository on disk: what a model there declares, and configurations to put beside it.

Pure but for reading one file: text in, text out. A written configuration begins with a line that says who
wrote it, by which a later writer knows its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sidecar.errors import ModelMismatch
from sidecar.media import DataType, TensorSpec
from sidecar.stages.deliver.upstream import Signature

CONFIG: Final = "config.pbtxt"
WRITTEN: Final = "# Written by `sidecar recipe export`"
# The configuration's words for types: the protocol's with this prefix, but for one.
_PREFIX: Final = "TYPE_"
_WORDS: Final[Mapping[DataType, str]] = {DataType.BYTES: "STRING"}
_TYPES: Final[Mapping[str, DataType]] = {
    _PREFIX + _WORDS.get(data_type, data_type.value): data_type for data_type in DataType
}


@dataclass(frozen=True, slots=True)
class Step:
    """A model of an ensemble: its own names for inputs and outputs -> the ensemble's names for the tensors."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def read_config(repository: Path, model: str) -> Signature:
    """What the model's configuration declares.

    Raises ModelMismatch where there is none, or where it leaves inputs or outputs to the server to find out.
    """
    path = repository / model / CONFIG
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ModelMismatch(
            f"the configuration of model {model!r} cannot be read: {error}", model=model
        ) from error
    if not (config.input and config.output):
        raise ModelMismatch(
            f"{path} declares no inputs or no outputs, which the server may find out and an ensemble must"
            " repeat: write them there",
            model=model,
        )
    return Signature(
        model=model,
        version="",
        inputs=tuple(_spec(entry, path) for entry in config.input),
        outputs=tuple(_spec(entry, path) for entry in config.output),
        max_batch_size=config.max_batch_size,
        decoupled=config.model_transaction_policy.decoupled,
    )


def onnx_config(signature: Signature, says: str) -> str:
    """The configuration of an ONNX model: on a GPU where the server has one, else on the CPU."""
    config = _config(signature)
    config.platform = "onnxruntime_onnx"
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO, count=1)
    if signature.max_batch_size:
        config.dynamic_batching.SetInParent()
    return _text(config, says)


def ensemble_config(signature: Signature, steps: Sequence[Step], says: str) -> str:
    """The configuration of an ensemble. Its tensors have one name each, over inputs, outputs and all between.

    Raises ModelMismatch where two have the same.
    """
    made = [name for step in steps for name in step.outputs.values()]
    names = [spec.name for spec in signature.inputs] + made
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ModelMismatch(
            f"an ensemble cannot have two tensors of one name, and {signature.model!r} would have two of"
            f" {', '.join(map(repr, twice))}: give the model's inputs and outputs names of their own",
            model=signature.model,
        )
    config = _config(signature)
    config.platform = "ensemble"
    for step in steps:
        config.ensemble_scheduling.step.add(
            model_name=step.model, model_version=-1, input_map=step.inputs, output_map=step.outputs
        )
    return _text(config, says)


def _config(signature: Signature) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig(name=signature.model, max_batch_size=signature.max_batch_size)
    for spec in signature.inputs:
        config.input.add(
            name=spec.name, data_type=_word(spec.data_type), dims=spec.shape, optional=spec.optional
        )
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_word(spec.data_type), dims=spec.shape)
    if signature.decoupled:
        config.model_transaction_policy.decoupled = True
    return config


def _text(config: model_config_pb2.ModelConfig, says: str) -> str:
    told = "\n".join(f"# {line}" for line in says.splitlines())
    fields = text_format.MessageToString(config, use_short_repeated_primitives=True)
    return f"{WRITTEN}, which may write it anew.\n{told}\n{fields}"


def _word(data_type: DataType) -> int:
    number: int = model_config_pb2.DataType.Value(_PREFIX + _WORDS.get(data_type, data_type.value))
    return number


def _spec(entry: model_config_pb2.ModelInput | model_config_pb2.ModelOutput, path: Path) -> TensorSpec:
    word = model_config_pb2.DataType.Name(entry.data_type)
    if word not in _TYPES:
        raise ModelMismatch(f"{path}: the type {word} of {entry.name!r} is not known here")
    optional = isinstance(entry, model_config_pb2.ModelInput) and entry.optional
    return TensorSpec(entry.name, _TYPES[word], tuple(entry.dims), optional=optional)
