"""Settings that are followed while the server runs: which they are, what they make of those it has, and how it went.

Never says how a change is made: the parts do that, told by the composition root. The chart goes by the same keys when
it decides whether pods must be replaced (helm/multimodal-sidecar/templates/_config.tpl).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.settings import Settings, changed_keys

LIVE: Final = ("formats", "limits", "models", "threads", "verdict", "workers.processes")
"""Parts of the settings, and single keys of them. Files that a model's recipe is read from count as the model's. From
worker processes to none, or back, nothing is followed."""


def followed(now: Settings, wanted: Settings) -> Settings:
    """The settings that a server with `now` can come to go by: what is live of `wanted`, and the rest as it is."""
    parts: dict[str, Any] = {}
    confined, was_confined = (each.workers.processes != 0 for each in (wanted, now))
    for key in LIVE:
        if key == "workers.processes" and confined is not was_confined:
            continue
        part, _, name = key.partition(".")
        value = getattr(wanted, part)
        if name:
            value = dataclasses.replace(getattr(now, part), **{name: getattr(value, name)})
        parts[part] = value
    return dataclasses.replace(now, **parts)


@dataclass(slots=True)
class Following:
    """How reading the settings anew went. `refused` while the last ones read are not gone by, whatever the reason;
    `restart` names the keys that differ and are not live.
    """

    refused: bool = False
    restart: tuple[str, ...] = ()
    outcomes: Counter[str] = field(default_factory=lambda: Counter(taken=0, refused=0))

    @contextmanager
    def one(self) -> Iterator[None]:
        """A reading of the settings, refused by whatever is raised."""
        try:
            yield
        except Exception:
            self.refused = True
            self.outcomes["refused"] += 1
            raise
        self.refused = False
        self.outcomes["taken"] += 1

    def waits(self, live: Settings, wanted: Settings) -> tuple[str, ...]:
        """Notes the keys that take a restart, and returns them."""
        self.restart = tuple(changed_keys(live, wanted))
        return self.restart
