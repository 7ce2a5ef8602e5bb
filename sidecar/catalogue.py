"""The models served here: each a recipe, a model on the model server, and how the two fit.

Recipes are read at start, and again when the settings are; a wrong one stops the start, and later leaves all as it
was. The model server is asked then too: where it contradicts a recipe that is a wrong one, and where it cannot be
reached the model is served as unreachable and asked for again until it answers. Nothing here touches media.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from sidecar.deadline import Deadline
from sidecar.errors import (
    ModelMismatch,
    RecipeError,
    SidecarError,
    UnknownModel,
    UpstreamModelMissing,
    UpstreamUnavailable,
)
from sidecar.media import Modality
from sidecar.recipes.clean import Form, formed
from sidecar.recipes.loader import load_recipe
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.limits import ModelLimits
from sidecar.stages.deliver.bindings import Binding, Grouping, bind
from sidecar.stages.deliver.upstream import Signature, Upstream

log = logging.getLogger(__name__)

# The least pause between two looks at the model server. Out of the air: short enough that a restarted
# one is found at once, and a flood of failing requests costs it one look a second.
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the operator says of one model.

    `recipe` is the directory with the model's preprocessor_config.json, None for a model that takes no
    media; `reference` and `resampler` are handed to the recipe's loader. `mode` "exact" promises the
    reference's bits and refuses to start where they cannot be had; "fast" decodes large JPEGs smaller, and is
    near them. `modality` says which processor is meant where the model's files name two. `upstream` is the
    model's name on the model server (empty: the same), `version` its version there (empty: the
    server's choice); `renames` maps a recipe's output to the model's input where names do not tell;
    `form` says in which form the model is handed its media: "tensors" of its recipe, clean "media", or "auto", by what
    its inputs are; `grouping` says how items become inferences; `max_items` bounds the items of a request (0: as
    `limits.items`); `in_flight`, the items that the model server may have at once before it has answered
    (0: as many as keep it busy); `limits`, what its items may bring where that is another than for all.
    """

    recipe: Path | None = None
    reference: Literal["auto", "pil", "torchvision"] = "auto"
    mode: Literal["exact", "fast"] = "exact"
    modality: Literal["auto", "image", "audio"] = "auto"
    resampler: Literal["soxr_hq", "swresample"] = "soxr_hq"
    upstream: str = ""
    version: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)
    grouping: Literal["auto", "each", "together"] = "auto"
    form: Form = "auto"
    max_items: Annotated[int, Ge(0)] = 0
    in_flight: Annotated[int, Ge(0)] = 0
    limits: ModelLimits = field(default_factory=ModelLimits)


class ModelState(enum.Enum):
    """Whether a model can be asked now."""

    READY = "ready"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    MISMATCHED = "mismatched"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the path uses it.

    `own` is the recipe of its files, and `recipe` that one in the form in which the model is handed media.
    `signature` and `binding` are what the model server told last; None where it has not told, or told
    something that does not fit. While it is unreachable they are of use to those who only look.
    """

    name: str
    config: ModelConfig
    recipe: Recipe | None
    state: ModelState
    problem: SidecarError | None = None
    signature: Signature | None = None
    binding: Binding | None = None
    own: Recipe | None = None

    @property
    def grouping(self) -> Grouping | None:
        return self.binding.grouping if self.binding else None

    @property
    def upstream(self) -> str:
        """The model server's name for it."""
        return self.config.upstream or self.name


class Catalogue:
    """All served models by name, kept in step with the model server."""

    def __init__(self, configs: Mapping[str, ModelConfig], upstream: Upstream | None) -> None:
        """Reads every recipe. Raises RecipeError, naming the model, where one cannot be followed."""
        self._upstream = upstream
        self._models = self._loaded(configs)
        self._watch: asyncio.Task[None] | None = None
        self._look_again = asyncio.Event()
        self._suspects: set[str] = set()
        self._reached = asyncio.Event()

    async def open(self) -> None:
        """Asks the model server for every model. Raises ModelMismatch where it contradicts a recipe."""
        if self._upstream is None:
            self._reached.set()
            return
        await self._look(self._models)
        for model in self._models.values():
            if isinstance(model.problem, ModelMismatch):
                raise model.problem
            if model.problem is not None:
                log.warning("model %s cannot be asked yet: %s", model.name, model.problem.message)
        self._watch = asyncio.create_task(self._keep_in_step(), name="catalogue")

    async def reread(self, configs: Mapping[str, ModelConfig]) -> Mapping[str, ServedModel]:
        """The models by settings that were read anew, for `serve`; those that are as they were are the same objects.

        Raises RecipeError and ModelMismatch, naming the model; nothing is changed by this.
        """
        models = {name: self._as_known(model) for name, model in self._loaded(configs).items()}
        if self._upstream is not None:
            unasked = [
                self._with_its_recipe(model) for model in models.values() if not self._asks_as_before(model)
            ]
            for model in await asyncio.gather(*(self._described(model) for model in unasked)):
                if isinstance(model.problem, ModelMismatch):
                    raise model.problem
                models[model.name] = model
        return models

    def serve(self, models: Mapping[str, ServedModel]) -> None:
        """Serves these from the next call on, and no other; calls under way end by what they began with."""
        before = self._models
        # What the model server told meanwhile of one that is as it was is newer.
        self._models = {name: self._as_known(model) for name, model in models.items()}
        for name in before.keys() - self._models.keys():
            log.info("model %s is served no longer", name)
        for name, model in self._models.items():
            if model is before.get(name):
                continue
            log.info("model %s is %s, by settings that were read anew", name, model.state.value)
            if model.state is not ModelState.READY:
                self.suspect(name)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def find(self, name: str) -> ServedModel | None:
        """The model of that name, None where there is none."""
        return self._models.get(name)

    def get(self, name: str) -> ServedModel:
        """The model of that name. Raises UnknownModel, listing the names that there are."""
        if (model := self.find(name)) is not None:
            return model
        served = ", ".join(sorted(self._models)) or "none"
        raise UnknownModel(f"no model {name!r} is served here; there are: {served}", model=name)

    def all(self) -> Iterable[ServedModel]:
        """Every model, sorted by name. May be asked on any thread."""
        models = self._models  # others may be put in their place meanwhile
        return [models[name] for name in sorted(models)]

    async def reached(self) -> None:
        """Returns once the model server has answered for every model, at least one time each."""
        await self._reached.wait()

    def suspect(self, name: str) -> None:
        """Asks for a new look at a model whose server failed: it may come back with another signature."""
        self._suspects.add(name)
        self._look_again.set()

    async def _keep_in_step(self) -> None:
        """Looks at what is not ready, or under suspicion, until the end."""
        while True:
            await self._look_again.wait()
            self._look_again.clear()
            try:
                await self._look(self._suspects)
            except Exception:
                log.exception("looking at the model server failed")
            await asyncio.sleep(_PAUSE_S)

    async def _look(self, names: Iterable[str]) -> None:
        """Describes models, all at once; those that are not ready then are looked at again later."""
        before = [self._models[name] for name in names if name in self._models]
        self._suspects.clear()
        await asyncio.gather(*(self._look_at(model) for model in before))
        unreached = (ModelState.UNREACHABLE, ModelState.MISSING)
        if all(model.state not in unreached for model in self._models.values()):
            self._reached.set()

    async def _look_at(self, then: ServedModel) -> None:
        now = await self._described(then)
        if self._models.get(now.name) is not then:
            return  # other settings came meanwhile, and this is of the old ones
        self._models[now.name] = now
        if now.state is not ModelState.READY:
            self.suspect(now.name)
        if now.state is not then.state and self._watch is not None:
            log.info("model %s is %s", now.name, now.state.value)

    def _loaded(self, configs: Mapping[str, ModelConfig]) -> dict[str, ServedModel]:
        return {
            name: _load(name, config, has_upstream=self._upstream is not None)
            for name, config in configs.items()
        }

    def _asks_as_before(self, model: ServedModel) -> bool:
        """Whether the one that is served has the same recipe, and is bound to the same inputs."""
        known = self._models.get(model.name)
        return known is not None and known.own == model.own and _question(known) == _question(model)

    def _as_known(self, model: ServedModel) -> ServedModel:
        """The one that is served, with its signature as it is now, where that asks as before; else the model itself."""
        known = self._models.get(model.name)
        if known is None or not self._asks_as_before(model):
            return model
        return known if known.config == model.config else replace(known, config=model.config)

    def _with_its_recipe(self, model: ServedModel) -> ServedModel:
        """The model with the recipe that is served, where that is the same: an equal one would be pickled anew."""
        known = self._models.get(model.name)
        if known is None or known.own != model.own:
            return model
        return replace(model, own=known.own, recipe=known.recipe)

    async def _described(self, model: ServedModel) -> ServedModel:
        """The model as the model server tells of it now."""
        assert self._upstream is not None  # noqa: S101 - only asked for where there is one
        try:
            signature = await self._upstream.describe(model.upstream, model.config.version, Deadline(None))
            own = model.own
            recipe = formed(own, signature.inputs, model.config.form) if own is not None else None
            # The one that it had, where it is the same: an equal one would be pickled anew.
            model = replace(model, recipe=model.recipe if recipe == model.recipe else recipe)
            binding = _bind(model, signature)
        except SidecarError as problem:
            state = _STATES.get(type(problem), ModelState.UNREACHABLE)
            now = replace(model, state=state, problem=problem.bare())
            return now if state is ModelState.UNREACHABLE else replace(now, signature=None, binding=None)
        return replace(model, state=ModelState.READY, problem=None, signature=signature, binding=binding)


# What a failed look says of a model; whatever is not here leaves it unreachable.
_STATES: Mapping[type[SidecarError], ModelState] = {
    ModelMismatch: ModelState.MISMATCHED,
    UpstreamModelMissing: ModelState.MISSING,
}


def recipe_of(name: str, config: ModelConfig) -> Recipe | None:
    """The recipe that a model's settings ask for; None for a model that takes no media. Raises RecipeError."""
    if config.recipe is None:
        return None
    try:
        return load_recipe(
            config.recipe,
            reference=config.reference,
            modality=None if config.modality == "auto" else Modality(config.modality),
            exact=config.mode == "exact",
            resampler=config.resampler,
            fast=config.mode == "fast",
        )
    except RecipeError as error:
        raise error.of(f"model {name!r}") from error


def _question(model: ServedModel) -> tuple[object, ...]:
    """What of a model's settings decides how it is bound to which inputs."""
    config = model.config
    return model.upstream, config.version, config.form, config.grouping, dict(config.renames)


def _load(name: str, config: ModelConfig, *, has_upstream: bool) -> ServedModel:
    recipe = recipe_of(name, config)
    if not has_upstream:
        return ServedModel(name, config, recipe, ModelState.READY, own=recipe)
    unasked = UpstreamUnavailable(f"the model server has not been asked for {name!r} yet", model=name)
    return ServedModel(name, config, recipe, ModelState.UNREACHABLE, unasked, own=recipe)


def _bind(model: ServedModel, signature: Signature) -> Binding:
    """How the model is fed; without a recipe, by plain inputs alone."""
    if model.recipe is None:
        return bind((), lambda _output, _data_type: False, signature)
    grouping = {"auto": None, "each": Grouping.EACH, "together": Grouping.TOGETHER}[model.config.grouping]
    return bind(
        model.recipe.outputs,
        model.recipe.accepts,
        signature,
        renames=model.config.renames,
        grouping=grouping,
    )
