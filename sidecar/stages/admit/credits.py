"""How much a model server is given before it has answered: enough to be busy, and no more.

What is handed over and not answered waits at the model server, prepared, in memory that is dear; while it has
enough, nothing more is prepared for it, and the rest waits here as encoded bytes, where it can be ordered, refused
and counted. Enough is what it answers in the time that it takes for one, twice: its own queue is then never empty.

    depth = max(least, 2 x largest batch, 2 x best rate x least time)

Rate times time is Little's law (L = λW); the best rate and the least time of some seconds are read as BBR reads a
link (Cardwell 2016). The time that answers take now is also what must be left of a deadline.

It never looks at tensors, and knows models by their names alone. Told the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# What any model may have: two for each of some instances, with nothing known. Out of the air.
_LEAST_DEPTH = 8
# Rates are counted over windows, and the best of some counts; times older than them are forgotten, so that
# a slow spell does not keep callers away once it is over.
_WINDOW_NS = 500_000_000
_WINDOWS = 16
_REMEMBERED_NS = _WINDOW_NS * _WINDOWS
_SAMPLES = 64
_HIGH = 0.9


@dataclass(frozen=True, slots=True)
class CreditStatistics:
    """A model's items handed over and not answered, and how many may be."""

    handed: int
    depth: int


@dataclass(slots=True)
class _Model:
    """What was seen of a model: `took` are (when, seconds an answer took), `answered` counts of past windows."""

    configured: int
    largest_batch: int
    handed: int = 0
    allowed: int = _LEAST_DEPTH
    took: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    answered: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOWS))
    window_ns: int = 0
    in_window: int = 0

    def recent(self, now_ns: int) -> list[float]:
        while self.took and self.took[0][0] < now_ns - _REMEMBERED_NS:
            self.took.popleft()
        return [seconds for _, seconds in self.took]

    def roll(self, now_ns: int) -> None:
        """Closes the windows that are over."""
        missed = (now_ns - self.window_ns) // _WINDOW_NS
        if missed > 0:
            self.answered.append(self.in_window)
            self.answered.extend([0] * min(_WINDOWS, missed - 1))
            self.in_window = 0
            self.window_ns = now_ns

    def depth(self, now_ns: int) -> int:
        self.allowed = self.configured or self._enough(now_ns)
        return self.allowed

    def _enough(self, now_ns: int) -> int:
        self.roll(now_ns)
        recent = self.recent(now_ns)
        best = max(self.answered, default=0) * 1e9 / _WINDOW_NS
        needed = 2 * best * min(recent) if recent else 0.0
        return max(_LEAST_DEPTH, 2 * self.largest_batch, round(needed))


class Credits:
    """Credits of all models. `freed` is called whenever a model may have room where it had none."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self.freed: Callable[[], None] = lambda: None

    def know(self, model: str, configured: int, largest_batch: int) -> None:
        """Says what a model was configured to have at most, 0 for no word, and the largest batch it takes."""
        known = self._models.get(model)
        if known is None:
            self._models[model] = _Model(configured, largest_batch)
        else:
            known.configured, known.largest_batch = configured, largest_batch

    def room(self, model: str, now_ns: int) -> bool:
        """Whether another item may be prepared for the model."""
        known = self._models.get(model)
        return known is None or known.handed < known.depth(now_ns)

    def hand_over(self, model: str, items: int) -> None:
        """Counts items that are on their way to the model."""
        self._models[model].handed += items

    def answered(self, model: str, items: int, took_s: float | None, now_ns: int) -> None:
        """Takes them back, with the seconds that their answer took; None where there was none."""
        known = self._models[model]
        known.handed -= items
        if took_s is not None:
            known.roll(now_ns)
            known.in_window += items
            known.took.append((now_ns, took_s))
        self.freed()

    def takes_s(self, model: str, now_ns: int) -> float:
        """How long an answer takes at present, nine of ten, in seconds; 0 where none came lately."""
        known = self._models.get(model)
        recent = sorted(known.recent(now_ns)) if known else []
        return recent[int(_HIGH * (len(recent) - 1))] if recent else 0.0

    def statistics(self) -> Mapping[str, CreditStatistics]:
        """By model, for observers on any thread; the depth is the one that was asked for last."""
        models = list(self._models.items())
        return {name: CreditStatistics(model.handed, model.allowed) for name, model in models}
