"""Which input of the model each output of the recipe feeds, and what is left for the caller to give.

Pure: a recipe's outputs and a model's signature in, one Binding out, decided once when the model is
described. It never guesses between two readings: whatever is not settled by name, by the operator's
renames, or by there being exactly one fit, is a ModelMismatch that names both sides and the setting.

The items axis. A model either takes one item a row, or declares one more axis in front of the item's
own ([num_images, C, H, W]). That axis is the items' when it is -1, and a mere 1 when it is fixed at 1.

| the model declares, beyond the item's own axes | EACH, an inference an item    | TOGETHER, one inference |
|------------------------------------------------|-------------------------------|-------------------------|
| batching, no items axis                        | [rows, ...], the default      | -                       |
| no batching, no items axis                     | [...], the default            | -                       |
| batching, items axis -1                        | [rows, 1, ...], when asked    | [1, items, ...], the default |
| no batching, items axis -1                     | [1, ...], when asked          | [items, ...], the default    |
| items axis 1                                   | as for -1, the default        | -                       |

Outputs whose items follow one another along their own first axis (TensorSpec.rows) need no items axis: joined,
those of all items are one tensor. TOGETHER is such a model's default where it does not batch. A model that has two or
more axes in front of theirs, or one too few, takes one item at a time: the axes in front have length 1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sidecar.errors import ModelMismatch
from sidecar.media import DataType, TensorSpec
from sidecar.stages.deliver.naming import spec_words
from sidecar.stages.deliver.upstream import Signature

# What models of TensorRT-LLM's older backend call the inputs that recipes make (its all_models, mid 2026).
_ALSO_CALLED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pixel_values": ("image_input", "PIXEL_VALUES"),
        "image_sizes": ("image_sizes_input", "IMAGE_SIZES"),
        "image_grid_thw": ("IMAGE_GRID_THW",),
        "attention_mask": ("ATTENTION_MASK",),
        "aspect_ratio_ids": ("ASPECT_RATIO_IDS",),
        "aspect_ratio_mask": ("ASPECT_RATIO_MASK",),
    }
)
_NO_RENAMES: Mapping[str, str] = MappingProxyType({})


class Grouping(enum.Enum):
    """How the items of a request become inferences: one each, or one of all of them."""

    EACH = "each"
    TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Bound:
    """One output of the recipe and the model's input that it feeds; pack makes `input.data_type`."""

    output: TensorSpec
    input: TensorSpec

    @property
    def items_axis(self) -> int | None:
        """The rule of the axis that the model has in front of the item's own, None where it has none."""
        return self.input.shape[0] if len(self.input.shape) == len(self.output.shape) + 1 else None

    @property
    def wrapped(self) -> bool:
        """Whether the model takes the rows of one item behind axes of length 1, or its only row without its axis, as
        encoders of TensorRT-LLM's older backend do.
        """
        return self.output.rows and len(self.input.shape) - len(self.output.shape) not in {0, 1}

    def laid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One item's shape as the model has it: with an items axis, and other axes of length 1, in front."""
        more = len(self.input.shape) - len(shape)
        return (1,) * more + shape if more >= 0 else shape[-more:]

    @property
    def joins(self) -> bool:
        """Whether items follow one another along the first axis, as many as there are."""
        return self.output.rows and self.items_axis is None and self.input.shape[:1] == (-1,)


@dataclass(frozen=True, slots=True)
class Binding:
    """How one model is fed.

    `media` are the inputs made from each item, in the recipe's order; `plain` those that the caller
    gives; `max_batch_size` counts rows, 0 where the model does not batch and tensors go without a
    batch axis.
    """

    model: str
    media: tuple[Bound, ...]
    plain: tuple[TensorSpec, ...]
    grouping: Grouping
    max_batch_size: int

    @property
    def batches(self) -> bool:
        return self.max_batch_size > 0

    @property
    def needs_media(self) -> bool:
        """Whether the model cannot be asked without media."""
        return any(not bound.input.optional for bound in self.media)

    @property
    def made(self) -> tuple[str, ...]:
        """Names of the inputs made from media."""
        return tuple(bound.input.name for bound in self.media)


def bind(
    recipe_outputs: Sequence[TensorSpec],
    accepts: Callable[[str, DataType], bool],
    signature: Signature,
    *,
    renames: Mapping[str, str] = _NO_RENAMES,
    grouping: Grouping | None = None,
) -> Binding:
    """Binds a recipe's outputs to a model's inputs.

    `accepts(output, type)` says whether the recipe can give that output in that type; `renames` maps an output's name
    to the model's name for it; `grouping` None takes the model's natural one. An output is bound by its (renamed) name,
    or one by which it is known; failing that, the only output of a recipe is bound to the only input that admits it. An
    optional output without a counterpart is left out. A recipe without outputs leaves every input to the caller, for
    one inference a request.

    A fixed axis of the model must be the recipe's own: an axis that the recipe lets vary with the
    media would make the model refuse most media, one call at a time, so it is refused here, once.

    Raises ModelMismatch.
    """
    pairing = _Pairing(tuple(recipe_outputs), accepts, signature, renames)
    media = pairing.settle()
    made = {bound.input.name for bound in media}
    return Binding(
        model=signature.model,
        media=media,
        plain=tuple(spec for spec in signature.inputs if spec.name not in made),
        grouping=_group(media, signature, grouping),
        max_batch_size=signature.max_batch_size,
    )


@dataclass(frozen=True, slots=True)
class _Pairing:
    """The two sides while they are held together."""

    outputs: tuple[TensorSpec, ...]
    accepts: Callable[[str, DataType], bool]
    signature: Signature
    renames: Mapping[str, str]

    def settle(self) -> tuple[Bound, ...]:
        inputs = {spec.name: spec for spec in self.signature.inputs}
        self._check_renames(inputs)
        settled: list[Bound] = []
        for output in self.outputs:
            names = [self.renames.get(output.name, output.name)]
            names += _ALSO_CALLED.get(output.name, ()) if output.name not in self.renames else ()
            found = next((inputs[name] for name in names if name in inputs), None)
            if found is None and output.optional:
                continue
            bound = self._only_fit(output) if found is None else Bound(output, found)
            if problem := self._contradiction(bound):
                raise ModelMismatch(
                    f"{self._ours(output)} cannot feed {self._theirs(bound.input)}: {problem}",
                    **self._facts(output),
                )
            if taken := next((other for other in settled if other.input.name == bound.input.name), None):
                raise ModelMismatch(
                    f"{self._ours(taken.output)} and {self._ours(output)} both feed "
                    f"{self._theirs(bound.input)}; give each its own input in `renames`",
                    **self._facts(output),
                )
            settled.append(bound)
        return tuple(settled)

    def _check_renames(self, inputs: Mapping[str, TensorSpec]) -> None:
        ours = {output.name for output in self.outputs}
        for output, target in self.renames.items():
            if output not in ours:
                raise ModelMismatch(
                    f"`renames` speaks of {output!r}, which the recipe does not make; it makes "
                    f"{self._listed(self.outputs)}; name one of these",
                    model=self.signature.model,
                    output=output,
                )
            if target not in inputs:
                raise ModelMismatch(
                    f"`renames` sends {output!r} to {target!r}, which model {self.signature.model!r} does "
                    f"not take; it takes {self._listed(self.signature.inputs)}; name one of these",
                    model=self.signature.model,
                    output=output,
                )

    def _only_fit(self, output: TensorSpec) -> Bound:
        """The fallback where no name fits: one output, and one input that admits it."""
        fits = [
            bound
            for bound in (Bound(output, spec) for spec in self.signature.inputs)
            if self._contradiction(bound) is None
        ]
        if len(self.outputs) == 1 and len(fits) == 1:
            return fits[0]
        why = (
            f"{len(fits)} of its inputs would fit"
            if len(fits) > 1
            else "none of its inputs has that name"
            if len(self.outputs) > 1
            else "none of its inputs has that name or fits by type and shape"
        )
        raise ModelMismatch(
            f"{self._ours(output)} has no input to feed at model {self.signature.model!r}, which takes "
            f"{self._listed(self.signature.inputs)}: {why}; name the input in `renames`, or choose the "
            "recipe that belongs to this model",
            **self._facts(output),
        )

    def _contradiction(self, bound: Bound) -> str | None:
        """Why the two cannot go together, and what to do; None if they can."""
        theirs, ours = bound.input.shape, bound.output.shape
        if bound.items_axis in {-1, 1}:
            theirs = theirs[1:]
        if bound.wrapped and {*theirs[: -len(ours)]} <= {-1, 1} and {*ours[: -len(theirs)]} <= {1}:
            theirs, ours = theirs[-len(ours) :], ours[-len(theirs) :]
        if len(theirs) != len(ours):
            return "the number of axes differs; choose the recipe that belongs to this model"
        if any(rule not in {-1, length} for rule, length in zip(theirs, ours, strict=True)):
            return (
                "an axis that the model fixes has another length, or varies with the media, in the recipe; "
                "choose the recipe that belongs to this model, or export the model with that axis as -1"
            )
        if not self.accepts(bound.output.name, bound.input.data_type):
            return (
                f"the recipe cannot be packed as {bound.input.data_type.value}; "
                "export the model with another input type"
            )
        return None

    def _ours(self, output: TensorSpec) -> str:
        return f"recipe output {output.name!r} ({spec_words(output)})"

    def _theirs(self, spec: TensorSpec) -> str:
        return f"input {spec.name!r} ({spec_words(spec)}) of model {self.signature.model!r}"

    def _facts(self, output: TensorSpec) -> dict[str, str]:
        return {"model": self.signature.model, "output": output.name}

    @staticmethod
    def _listed(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(f"{spec.name!r} ({spec_words(spec)})" for spec in specs) or "nothing"


def _group(media: tuple[Bound, ...], signature: Signature, asked: Grouping | None) -> Grouping:
    """The grouping asked for, if the model's shapes allow it; else its natural one."""
    if not media:
        return Grouping.TOGETHER
    together = all(bound.items_axis == -1 or bound.joins for bound in media)
    if asked is Grouping.TOGETHER and not together:
        flat = next(bound.input for bound in media if bound.items_axis != -1 and not bound.joins)
        raise ModelMismatch(
            f"`grouping` is together, but input {flat.name!r} ({spec_words(flat)}) of model "
            f"{signature.model!r} has no axis of varying length for the items; set `grouping` to each",
            model=signature.model,
            input=flat.name,
        )
    rows_of_their_own = signature.max_batch_size > 0 and any(bound.joins for bound in media)
    return asked or (Grouping.TOGETHER if together and not rows_of_their_own else Grouping.EACH)
