"""What the watcher asks of the rest of the server: models at the model server, what it counted, workers and queues, and
what the media lately seen would take by other settings.

It only tells, and keeps nothing of a request but some items' facts. Nothing of the path knows it.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sidecar.catalogue import Catalogue, ServedModel, recipe_of
from sidecar.deadline import Deadline
from sidecar.errors import SidecarError, UpstreamUnimplemented
from sidecar.media import DataType, MediaInfo, Modality
from sidecar.observe.advice import Alternatives
from sidecar.observe.journal import Passage
from sidecar.observe.picture import Fleet, LaneView
from sidecar.observe.starvation import Counters
from sidecar.observe.watcher import UpstreamFacts
from sidecar.recipes.recipe import Recipe
from sidecar.stages.admit.cost import CostModel
from sidecar.stages.admit.credits import Credits
from sidecar.stages.admit.gate import Gate
from sidecar.stages.admit.lanes import Lanes
from sidecar.stages.deliver.triton import TritonUpstream
from sidecar.walk import Item
from sidecar.workers.planner import Planner
from sidecar.workers.pool import Workers
from sidecar.workers.sandbox.config import NO_PROCESSES, words

log = logging.getLogger(__name__)

Types = Mapping[str, DataType]
"""Element types by output."""

# Items whose facts stand for what a model is sent: enough for a mix, few enough to be quoted in a millisecond.
_REMEMBERED: Final = 16


class Surroundings:
    """Told by the composition root's parts; `lanes` is None where admission is not ours."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        upstream: TritonUpstream | None,
        gate: Gate,
        lanes: Lanes | None,
        credit: Credits,
        costs: CostModel,
        workers: Workers,
        planner: Planner,
    ) -> None:
        self._catalogue = catalogue
        self._upstream = upstream
        self._gate = gate
        self._lanes = lanes
        self._credits = credit
        self._costs = costs
        self._workers = workers
        self._planner = planner
        self._seen: defaultdict[str, deque[MediaInfo]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._familiar: set[str] = set()
        self._ended = 0
        self._fast: dict[str, tuple[Recipe | None, Recipe | None]] = {}

    def remember(self, passage: Passage) -> None:
        """Keeps the facts of a call's first item, of many calls those of a few."""
        self._ended += 1
        if self._ended % _REMEMBERED and passage.model in self._familiar:
            return
        seen = self._seen[passage.model]
        if len(seen) == _REMEMBERED:
            self._familiar.add(passage.model)
        for item in passage.items[:1]:
            if isinstance(item, Item) and item.info is not None and item.cpu_ms:
                seen.append(item.info)

    def upstreams(self) -> Mapping[str, UpstreamFacts]:
        """The models at the model server by name, several served ones together where they ask the same."""
        found: dict[str, UpstreamFacts] = {}
        if self._upstream is None:
            return found
        for model in self._catalogue.all():
            name, signature, version = model.upstream, model.signature, model.config.version
            known = found.get(name)
            if known is not None:
                # Of several versions the server's counters are read together.
                version = version if version == known.version else ""
                found[name] = replace(known, models=(*known.models, model.name), version=version)
            if signature is not None and (known is None or not known.instances):
                found[name] = UpstreamFacts(
                    models=found[name].models if known is not None else (model.name,),
                    version=version,
                    target_rows=signature.max_batch_size,
                    batch_delay_us=signature.batch_delay_us,
                    instances=signature.instances,
                )
            elif known is None:
                found[name] = UpstreamFacts((model.name,), version)
        return found

    async def counters(self, upstream: str, version: str, timeout_s: float) -> Counters:
        """What the model server counted of one. UpstreamUnimplemented where it does not count."""
        if self._upstream is None:
            raise UpstreamUnimplemented("there is no model server")
        return await self._upstream.counters(upstream, version, Deadline.after(timeout_s))

    def fleet(self) -> Fleet:
        """Workers, threads and queues now."""
        gate, plan = self._gate.statistics().values(), self._planner.plan
        lanes = self._lanes.statistics() if self._lanes is not None else {}
        return Fleet(
            processes=plan.processes,
            threads=dict(plan.threads),
            express=plan.express_threads,
            queued=sum(lane.queued for lane in gate),
            running=sum(lane.running for lane in gate),
            handed=sum(model.handed for model in self._credits.statistics().values()),
            lanes=tuple(
                LaneView(modality, cost_class, lane.queued, lane.queued_ms / 1e3)
                for (modality, cost_class), lane in lanes.items()
            ),
            sandbox=words(self._workers.crew().sandbox) if plan.processes else NO_PROCESSES,
        )

    def pids(self) -> Sequence[int]:
        """Worker processes."""
        return self._workers.crew().pids

    def sends_bytes(self) -> bool:
        """Whether tensors go to the model server as bytes."""
        return self._upstream is not None and self._upstream.handover().path != "shared_memory"

    def alternatives(self, models: Sequence[str]) -> tuple[Alternatives, ...]:
        """What the media lately seen would take by other settings; models of which none was seen are left out."""
        served = (self._catalogue.find(name) for name in models if self._seen.get(name))
        found = (self._alternatives(model) for model in served if model is not None)
        return tuple(each for each in found if each is not None)

    def _alternatives(self, model: ServedModel) -> Alternatives | None:
        recipe = model.recipe
        if recipe is None or recipe.modality is not Modality.IMAGE:
            return None
        infos = [info for info in self._seen[model.name] if info.modality is recipe.modality]
        types = {output.name: output.data_type for output in recipe.outputs}
        if model.binding is not None:
            types |= {bound.output.name: bound.input.data_type for bound in model.binding.media}
        bare = {
            name: DataType.UINT8 if recipe.accepts(name, DataType.UINT8) else kind
            for name, kind in types.items()
        }
        fast = self._fast_recipe(model)
        return Alternatives(
            model.name,
            fast=None if fast is None else self._times(infos, (recipe, types), (fast, types)),
            uint8=None if bare == types else self._times(infos, (recipe, types), (recipe, bare)),
        )

    def _times(
        self, infos: Sequence[MediaInfo], now: tuple[Recipe, Types], then: tuple[Recipe, Types]
    ) -> float | None:
        """By how much media with these facts would take more CPU by another recipe or in other types; None where
        that cannot be foretold.
        """
        sums = [0.0, 0.0]
        for info in infos:
            try:
                quoted = [self._quoted(info, *each) for each in (now, then)]
            except SidecarError:
                continue
            sums = [total + cpu_ms for total, cpu_ms in zip(sums, quoted, strict=True)]
        return sums[1] / sums[0] if all(sums) else None

    def _quoted(self, info: MediaInfo, recipe: Recipe, types: Types) -> float:
        """Milliseconds of one core."""
        work = recipe.workload(info, types)
        return self._costs.quote(info, recipe.decode_target(info), work).cost.cpu_ms

    def _fast_recipe(self, model: ServedModel) -> Recipe | None:
        """The same model's recipe in `fast` mode; None where it is in that mode already, or has none."""
        if model.config.mode == "fast" or model.config.recipe is None:
            return None
        of, fast = self._fast.get(model.name, (None, None))
        if of is not model.own:
            try:
                fast = recipe_of(model.name, replace(model.config, mode="fast"))
            except SidecarError as problem:
                log.debug("model %s has no fast mode: %s", model.name, problem.message)
                fast = None
            self._fast[model.name] = model.own, fast
        return fast
