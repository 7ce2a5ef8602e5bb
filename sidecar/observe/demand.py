"""What calls that ended took: items, CPU time and wall time by stage, for the operational laws and the live picture.

Sums of what the path measured; it decides nothing. Times are nanoseconds, CPU milliseconds of one core.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from sidecar.media import Modality
from sidecar.observe.notes import MODALITIES, Calls, Columns, Items, Noted
from sidecar.observe.timings import PLACES, STAGES, Stage

# A call's own timeline has its last item's stages too; those are the items' to tell.
_OF_THE_CALL: Final = np.array(
    [stage in {Stage.RECEIVE, Stage.DELIVER, Stage.RESPOND} for stage in STAGES], np.int64
)
_WORKED: Final = (Stage.DECODE, Stage.TRANSFORM, Stage.PACK)


@dataclass(slots=True)
class Demand:
    """Sums over calls, by the modality of their media. `items` and `cpu_ms` count what workers made; `express_ms` is
    what small items, which have threads of their own beside, took of it.

    `stage_ns`: wall time by modality (None: no media) and stage. `residence_ns`: calls' whole times; `waited_ns`: what
    of it their last items waited for a worker. `failed`: calls that did not end well.
    """

    calls: int = 0
    failed: int = 0
    items: dict[Modality, int] = field(default_factory=dict)
    cpu_ms: dict[Modality, float] = field(default_factory=dict)
    express_ms: dict[Modality, float] = field(default_factory=dict)
    stage_ns: dict[Modality | None, dict[Stage, int]] = field(default_factory=dict)
    residence_ns: int = 0
    waited_ns: int = 0

    def count(self, noted: Noted, express_below_ms: float) -> None:
        """Counts calls that ended; items that cost less than `express_below_ms` have threads of their own."""
        calls, items = noted.calls, noted.items
        if not calls.size:
            return
        self.calls += len(calls)
        self.failed += int(calls[:, Calls.FAILED].sum())
        self.residence_ns += int((calls[:, Calls.ENDED] - calls[:, Calls.BEGUN]).sum())
        self.waited_ns += int(calls[:, Calls.STAGES + PLACES[Stage.ADMIT]].sum())
        own = calls[:, Calls.STAGES :] * _OF_THE_CALL
        for place in np.unique(calls[:, Calls.MODALITY]).tolist():
            sums = own[calls[:, Calls.MODALITY] == place].sum(axis=0)
            modality = MODALITIES[place]
            if modality is not None:
                its = items[items[:, Items.MODALITY] == place]
                sums += its[:, Items.STAGES :].sum(axis=0)
                self._count_items(its[:, Items.CPU_NS], modality, int(express_below_ms * 1e6))
            stages = self.stage_ns.setdefault(modality, {})
            for stage, spent in zip(STAGES, sums.tolist(), strict=True):
                if spent:
                    stages[stage] = stages.get(stage, 0) + spent

    def _count_items(self, cpu_ns: Columns, modality: Modality, express_below_ns: int) -> None:
        made = cpu_ns[cpu_ns > 0]
        small = made[made < express_below_ns]
        if made.size:
            self.items[modality] = self.items.get(modality, 0) + len(made)
            self.cpu_ms[modality] = self.cpu_ms.get(modality, 0.0) + int(made.sum()) / 1e6
        if small.size:
            self.express_ms[modality] = self.express_ms.get(modality, 0.0) + int(small.sum()) / 1e6

    def add(self, other: Demand) -> None:
        """Counts a later spell to this one."""
        self.calls += other.calls
        self.failed += other.failed
        self.residence_ns += other.residence_ns
        self.waited_ns += other.waited_ns
        for modality, count in other.items.items():
            self.items[modality] = self.items.get(modality, 0) + count
        for mine, theirs in ((self.cpu_ms, other.cpu_ms), (self.express_ms, other.express_ms)):
            for modality, spent_ms in theirs.items():
                mine[modality] = mine.get(modality, 0.0) + spent_ms
        for kind, stages in other.stage_ns.items():
            own = self.stage_ns.setdefault(kind, {})
            for stage, nanoseconds in stages.items():
                own[stage] = own.get(stage, 0) + nanoseconds

    @property
    def off_core(self) -> float:
        """Which part of their jobs' time workers had no core, 0 to 1; 0 where nothing was worked off."""
        worked = self.worked_ns
        return max(0.0, 1 - sum(self.cpu_ms.values()) * 1e6 / worked) if worked else 0.0

    @property
    def worked_ns(self) -> int:
        """Wall time that workers were at it."""
        return sum(map(self.worked_ns_of, self.stage_ns))

    def worked_ns_of(self, modality: Modality | None) -> int:
        """The same for one modality."""
        stages = self.stage_ns.get(modality, {})
        return sum(stages.get(stage, 0) for stage in _WORKED)
