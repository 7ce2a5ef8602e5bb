"""The door: what a call must be before anything is spent on it.

Pure decisions over the catalogue's view of a model; nothing is read from media here, and nothing is
taken. What passes is `Accepted`, and every later step may rely on what was checked.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.catalogue import ModelState, ServedModel
from sidecar.deadline import Deadline
from sidecar.errors import (
    InvalidRequest,
    SidecarError,
    UpstreamUnavailable,
    WrongItemCount,
    WrongModality,
    WrongStream,
)
from sidecar.media import DataType, ImageInfo, Modality, Tensor
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.limits import Limits
from sidecar.stages.admit.turns import Priority
from sidecar.stages.deliver.bindings import Binding, Grouping
from sidecar.stages.deliver.inputs import check_inputs, check_outputs
from sidecar.stages.deliver.parameters import check_parameters
from sidecar.stages.deliver.upstream import ParameterValue, Signature


class Verb(enum.Enum):
    """What a caller wants of a model."""

    PREPROCESS = "preprocess"
    INFER = "infer"
    INFER_STREAM = "infer_stream"


@dataclass(frozen=True, slots=True)
class Asked:
    """A call out of transport, all but its media. `items` counts them.

    `inputs` carry no batch axis; `data_type` is the element type that PREPROCESS wants, None for the
    model's own. `tenant` is empty where callers are not told apart; `fresh` wants nothing that was kept;
    `idempotency_key` is empty for none. `reserved` are parameters that the model server's protocol keeps for itself,
    from callers who speak it; `classes`, how many of an output's highest classes are wanted in its place.
    """

    verb: Verb
    model: str
    items: int
    deadline: Deadline
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[str, ...] = ()
    all_or_nothing: bool = False
    request_id: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    data_type: DataType | None = None
    tenant: str = ""
    priority: Priority = Priority.INTERACTIVE
    fresh: bool = False
    idempotency_key: str = ""
    reserved: Mapping[str, ParameterValue] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an accepted call is handed to the model server: `plain` are its inputs in the model's order."""

    binding: Binding
    signature: Signature
    plain: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call that may begin. `delivery` is None for PREPROCESS.

    `data_types` name the recipe's outputs to make, and their element types; `limits` are the model's as they were then,
    by which the call goes on to its end.
    """

    asked: Asked
    model: ServedModel
    data_types: Mapping[str, DataType]
    delivery: Delivery | None
    limits: Limits

    @property
    def recipe(self) -> Recipe | None:
        """The model's own; None for a model that takes no media."""
        return self.model.recipe

    @property
    def modality(self) -> Modality | None:
        return self.recipe.modality if self.recipe else None

    @property
    def upstream(self) -> str:
        """The model server's name for the model; empty where the call delivers nothing."""
        return "" if self.delivery is None else self.model.upstream

    @property
    def fails_as_one(self) -> bool:
        """Whether the first failed item fails the call."""
        together = self.delivery is not None and self.delivery.binding.grouping is Grouping.TOGETHER
        return self.asked.all_or_nothing or together


def accept(asked: Asked, model: ServedModel, *, has_model_server: bool, limits: Limits) -> Accepted:
    """Checks a call against its model and the limits.

    Raises WrongItemCount, WrongModality, WrongStream, InvalidInput, InvalidRequest, or what keeps the
    model from being asked.
    """
    if asked.verb is not Verb.PREPROCESS and not has_model_server:
        raise InvalidRequest(
            "no model server is configured here, only Preprocess works: set `triton.address`", field="model"
        )
    _check_count(asked, model, limits.items)
    _check_inputs_bytes(asked, limits)
    delivery = None if asked.verb is Verb.PREPROCESS else _delivery(asked, model)
    data_types = _data_types(asked, model, has_model_server=has_model_server)
    return Accepted(asked, model, data_types, delivery, limits)


def placeholder_tokens(model: ServedModel, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """How many placeholder tokens pictures of these upright (width, height) take; nothing where it is not known.

    Raises WrongModality for a model without pictures, and what the model's own processor refuses a size with.
    """
    if not sizes:
        return ()
    if model.recipe is None or model.recipe.modality is not Modality.IMAGE:
        raise WrongModality(
            f"model {model.name!r} takes no pictures, and the request asks about sizes of some: leave them out",
            model=model.name,
        )
    found = []
    for width, height in sizes:
        try:
            found.append(model.recipe.tokens(ImageInfo("", 0, width, height, "RGB")))
        except SidecarError as error:
            raise error.of(f"size {width}x{height}") from error
    return tuple(count for count in found if count is not None)


def _delivery(asked: Asked, model: ServedModel) -> Delivery:
    binding, signature = _reached(model)
    if signature.decoupled and asked.verb is Verb.INFER:
        raise WrongStream(
            f"model {model.name!r} is decoupled (it may answer any number of times): ask it through InferStream",
            model=model.name,
        )
    check_parameters(asked.parameters)
    check_outputs(asked.outputs, signature.outputs)
    return Delivery(binding, signature, check_inputs(asked.inputs, binding.plain, binding.made))


def _reached(model: ServedModel) -> tuple[Binding, Signature]:
    if model.state is ModelState.READY and model.binding is not None and model.signature is not None:
        return model.binding, model.signature
    if model.problem is not None:
        # The catalogue keeps its own: raised again and again it would gather every caller's frames.
        raise model.problem.again()
    raise UpstreamUnavailable(
        f"model {model.name!r} has not been found at the model server yet", model=model.name
    )


def _check_count(asked: Asked, model: ServedModel, most_items: int) -> None:
    if model.recipe is None:
        if asked.items or asked.verb is Verb.PREPROCESS:
            raise WrongModality(
                f"model {model.name!r} takes no media, and the request brings {asked.items} items: "
                "send `inputs` only",
                model=model.name,
            )
        return
    binding = model.binding
    fewest = 1 if asked.verb is Verb.PREPROCESS or binding is None or binding.needs_media else 0
    most = model.config.max_items or most_items
    if asked.verb is Verb.INFER_STREAM and binding is not None and binding.grouping is Grouping.EACH:
        most = 1
    if not fewest <= asked.items <= most:
        wanted = f"exactly {most}" if most == fewest else f"{fewest} to {most}"
        raise WrongItemCount(
            f"model {model.name!r} takes {wanted} media items in this call, and the request brings {asked.items}",
            field="media",
            found=asked.items,
            allowed=f"{fewest} to {most}",
        )


def _check_inputs_bytes(asked: Asked, limits: Limits) -> None:
    times = max(1, asked.items)
    found = times * sum(tensor.nbytes for tensor in asked.inputs)
    if found > limits.inputs_bytes:
        raise InvalidRequest(
            f"the plain inputs go along with each of {times} items, {found} bytes in all, and the limit "
            f"`limits.inputs_bytes` is {limits.inputs_bytes}: send fewer items at once, or raise the limit",
            field="inputs",
            limit="limits.inputs_bytes",
            allowed=limits.inputs_bytes,
            found=found,
        )


def _data_types(asked: Asked, model: ServedModel, *, has_model_server: bool) -> Mapping[str, DataType]:
    """The recipe's outputs to make: all in the type asked for, or those that the model takes in its own."""
    if model.recipe is None:
        return {}
    natural = {output.name: output.data_type for output in model.recipe.outputs}
    wanted = asked.data_type
    if wanted is not None:
        taking = [name for name in natural if model.recipe.accepts(name, wanted)]
        if not taking:
            raise InvalidRequest(
                f"model {model.name!r} is not prepared as {wanted.value}: ask for another `data_type`, or none",
                field="data_type",
            )
        return natural | dict.fromkeys(taking, wanted)
    if not has_model_server:
        return natural
    binding, _ = _reached(model)
    return {bound.output.name: bound.input.data_type for bound in binding.media}
