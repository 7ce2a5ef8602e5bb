"""What the caller asks of the model by name, its plain inputs and the outputs it wants, held against
what the model declares.

Pure. Every contradiction is found here, before anything is sent, because the model server's own
refusal comes late, names the batch axis that the caller never saw, and over a stream has no status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from sidecar.errors import InvalidInput, InvalidRequest
from sidecar.media import DataType, Tensor, TensorSpec
from sidecar.stages.deliver.elements import fault
from sidecar.stages.deliver.naming import spec_words, tensor_words

# Walking BYTES takes about 0.15 µs an element on the front's only thread, so this many take 10 ms. The
# limit itself is out of the air: a prompt is one element, a list of stop words some dozens.
MAX_BYTES_ELEMENTS = 65_536


def check_inputs(
    given: Sequence[Tensor], specs: Sequence[TensorSpec], made: Sequence[str] = ()
) -> tuple[Tensor, ...]:
    """The given tensors in the order of `specs`; the optional ones that were left out are missing.

    `specs` are the inputs that callers give and `made` the names of those made from media; shapes are
    without the batch axis. Raises InvalidInput, with fact `input`, for a name unknown, given twice or
    made from media, a required one left out, and a type, shape or length that contradicts.
    """
    named: dict[str, Tensor] = {}
    rules = {spec.name: spec for spec in specs}
    for tensor in given:
        if tensor.name in named:
            _refuse(tensor.name, "is given twice; give it once")
        if tensor.name in made:
            _refuse(tensor.name, "is made from the media; leave it out")
        if tensor.name not in rules:
            known = ", ".join(map(repr, rules)) or "none"
            _refuse(tensor.name, f"is not one that the model takes; it takes: {known}")
        _check(tensor, rules[tensor.name])
        named[tensor.name] = tensor
    for spec in specs:
        if not spec.optional and spec.name not in named:
            _refuse(spec.name, f"is missing; the model needs it as {spec_words(spec)}")
    return tuple(named[spec.name] for spec in specs if spec.name in named)


def check_outputs(wanted: Sequence[str], specs: Sequence[TensorSpec]) -> None:
    """Raises InvalidRequest for the name of an output that the model does not give, or named twice."""
    known = [spec.name for spec in specs]
    for place, name in enumerate(wanted):
        if name not in known:
            listed = ", ".join(map(repr, known)) or "none"
            raise InvalidRequest(
                f"output {name!r} is not one that the model gives; it gives: {listed}", field="outputs"
            )
        if name in wanted[:place]:
            raise InvalidRequest(f"output {name!r} is asked for twice; name it once", field="outputs")


def _check(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.data_type is not spec.data_type:
        _refuse(spec.name, f"is {tensor.data_type.value}; the model takes {spec_words(spec)}")
    if not spec.admits(tensor.shape):
        _refuse(
            spec.name,
            f"is {tensor_words(tensor)}; the model takes {spec_words(spec)}, without the batch axis",
        )
    if tensor.data_type is DataType.BYTES and tensor.elements > MAX_BYTES_ELEMENTS:
        _refuse(spec.name, f"has {tensor.elements} elements; at most {MAX_BYTES_ELEMENTS} are taken")
    if problem := fault(tensor):
        _refuse(spec.name, f"{problem}; send exactly the elements of its shape")


def _refuse(name: str, problem: str) -> NoReturn:
    raise InvalidInput(f"input {name!r} {problem}", input=name)
