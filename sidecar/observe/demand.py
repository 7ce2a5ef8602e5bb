"""What calls that ended took: items, CPU time and wall time by stage, for the operational laws and the live picture.

Sums of what the path measured; it decides nothing. Times are nanoseconds, CPU milliseconds of one core.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sidecar.media import Modality
from sidecar.observe.journal import ObservedItem, Passage
from sidecar.observe.timings import Stage

_OF_THE_CALL: Final = (Stage.RECEIVE, Stage.DELIVER, Stage.RESPOND)
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

    def take(self, ended: Iterable[Passage], express_below_ms: float) -> None:
        """Counts calls that ended; items that cost less than `express_below_ms` have threads of their own."""
        for passage in ended:
            modality, spent = passage.modality, passage.timeline.spent
            self.calls += 1
            self.failed += passage.reason != "OK"
            self.residence_ns += passage.ended_ns - passage.timeline.start_ns
            self.waited_ns += spent.get(Stage.ADMIT, 0)
            stages = self.stage_ns.setdefault(modality, {})
            for stage in _OF_THE_CALL:
                if stage in spent:
                    stages[stage] = stages.get(stage, 0) + spent[stage]
            if modality is not None:
                for item in passage.items:
                    self._item(item, modality, stages, express_below_ms)

    def _item(
        self, item: ObservedItem, modality: Modality, stages: dict[Stage, int], express_below_ms: float
    ) -> None:
        for stage, nanoseconds in item.timeline.spent.items():
            stages[stage] = stages.get(stage, 0) + nanoseconds
        if cpu_ms := item.cpu_ms:
            self.items[modality] = self.items.get(modality, 0) + 1
            self.cpu_ms[modality] = self.cpu_ms.get(modality, 0.0) + cpu_ms
            if cpu_ms < express_below_ms:
                self.express_ms[modality] = self.express_ms.get(modality, 0.0) + cpu_ms

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
