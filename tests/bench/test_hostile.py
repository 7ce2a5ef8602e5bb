"""What files that mean harm must not do, and that it is found where one does."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from bench.hostile import targets
from bench.mutants import SPARE, Prepared, mutator, verdict
from tests import corpus


def cases(**changed: float) -> list[dict[str, Any]]:
    found: dict[str, Any] = {
        "refused": True, "cpu_ms": 1.0, "grown_mib": 1.0, "sound": True, "crashes": 0, "hangs": 0,
        "over_memory": 0, "outside": 0, "answers": True,
    } | changed  # fmt: skip
    return [{"case": kind, "kind": kind, **found} for kind in ("bomb", "inert", "mutants", "served")]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, 0),
        ({"refused": False}, 1),
        ({"cpu_ms": 51.0}, 1),
        ({"grown_mib": 9.0}, 1),
        ({"sound": False}, 1),
        ({"crashes": 1}, 1),
        ({"hangs": 1}, 1),
        ({"over_memory": 1}, 1),
        ({"outside": 1}, 2),
        ({"answers": False}, 1),
    ],
)
def test_a_target_is_missed_where_its_bound_is_passed(changed: dict[str, float], missed: int) -> None:
    assert sum(not target["holds"] for target in targets(cases(**changed))) == missed


def test_what_becomes_of_a_file_is_told() -> None:
    prepared = Prepared("png")
    assert prepared.outcome(corpus.image("png_rgb.png"), 0).end == "decoded"
    assert prepared.outcome(corpus.data("cut.png"), 1).end == "corrupt"
    assert prepared.outcome(corpus.data("garbage.bin"), 2).end == "unsupported"
    assert prepared.outcome(corpus.data("huge.png"), 0).end == "too_large"
    assert prepared.outcome(corpus.image("png_rgb.png"), 0).excess < SPARE


def test_seeds_are_of_their_own_format_and_others_of_any() -> None:
    made = mutator("tiff")
    assert len(made.seeds) == sum(facts.format == "tiff" for facts in corpus.PICTURES.values())
    assert len(made.others) > len(made.seeds)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGSTOP])
def test_a_child_that_dies_or_hangs_loses_one_mutant(
    how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.mutants.LEASE_S", 2.0 if how == signal.SIGSTOP else 10.0)
    hurt: list[int] = []

    def hurt_one(pid: int) -> None:
        if not hurt:
            hurt.append(pid)
            os.kill(pid, how)

    it = verdict("bmp", 2_000, seen=hurt_one)
    assert (it.crashes, it.hangs) == ((1, 0) if how == signal.SIGSEGV else (0, 1))
    assert sum(it.ends.values()) in {1_999, 2_000}
    assert "bmp " in it.harm[0]
