"""Which settings are followed while the server runs, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.catalogue import ModelConfig
from sidecar.errors import SettingsError
from sidecar.following import LIVE, Following, followed
from sidecar.settings import Settings, changed_keys
from sidecar.stages.admit.formats import FormatsConfig
from sidecar.stages.admit.gate import GateConfig
from sidecar.stages.admit.limits import Limits
from sidecar.workers.plan import ThreadsConfig
from sidecar.workers.supervisor import WorkersConfig
from tests.running import CHECKPOINTS

BEFORE = Settings()
WANTED = Settings(
    limits=Limits(items=9),
    formats=FormatsConfig(deny=("webp",)),
    threads=ThreadsConfig(image=3),
    workers=WorkersConfig(processes=2, start_s=9),
    gate=GateConfig(patience_s=9),
    # More than BEFORE's own limits let a model have: both are followed at once.
    models={"clip": ModelConfig(recipe=CHECKPOINTS / "clip-vit-base-patch32", max_items=9)},
)


def test_what_is_live_is_taken_and_the_rest_stays() -> None:
    became = followed(replace(BEFORE, limits=Limits(items=4)), WANTED)
    assert changed_keys(became, WANTED) == ["gate.patience_s", "workers.start_s"]
    changed = changed_keys(BEFORE, became)
    assert {key.partition(".")[0] for key in changed} < {key.partition(".")[0] for key in LIVE}


@pytest.mark.parametrize(("before", "wanted"), [(2, 0), (0, 2), (0, None), (None, 0)])
def test_between_processes_and_none_it_takes_a_restart(before: int | None, wanted: int | None) -> None:
    one, other = (Settings(workers=WorkersConfig(processes=number)) for number in (before, wanted))
    assert changed_keys(followed(one, other), other) == ["workers.processes"]


def test_what_waits_for_a_restart_is_named_until_it_is_as_it_was() -> None:
    following = Following()
    assert following.waits(BEFORE, WANTED)
    assert "gate.patience_s" in following.restart
    assert following.waits(BEFORE, BEFORE) == ()


def test_a_refusal_stands_until_settings_are_taken() -> None:
    following = Following()
    with pytest.raises(SettingsError), following.one():
        raise SettingsError("no", key="a", value="b", allowed="c")
    with pytest.raises(ZeroDivisionError), following.one():
        raise ZeroDivisionError
    assert following.refused
    with following.one():
        pass
    assert not following.refused
    assert following.outcomes == {"refused": 2, "taken": 1}
