"""What settings ask of the sandbox, what they cannot ask, and how its state is told."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from sidecar.errors import SettingsError
from sidecar.settings import load_settings
from sidecar.workers.sandbox.config import LAYERS, Confinement, LayerState, SandboxConfig, lacking, words
from sidecar.workers.sandbox.landlock import ruleset

ALL = [LayerState(name, True) for name in LAYERS]
NO_LANDLOCK = [
    LayerState(name, name != "landlock", "no such kernel" * (name == "landlock")) for name in LAYERS
]


def test_every_layer_is_optional_by_default() -> None:
    config = load_settings(None, {}).sandbox
    assert {config.of(name) for name in LAYERS} == {"optional"}
    assert config.required == ()


def test_one_word_is_short_for_the_mode_of_all_and_a_layer_may_differ() -> None:
    config = load_settings(None, {}, ["sandbox=required", "sandbox.layers.landlock=optional"]).sandbox
    assert config.required == tuple(name for name in LAYERS if name != "landlock")


@pytest.mark.parametrize(
    ("given", "words_of_it"),
    [
        ("sandbox.layers.jail=required", "no layer 'jail'"),
        ("sandbox.layers.no_new_privs='off'", "landlock and seccomp cannot be without it"),
        ("sandbox.mode=always", "`sandbox.mode` has the value 'always'"),
        ("sandbox.memory_bytes=-1", "`sandbox.memory_bytes` has the value -1"),
    ],
)
def test_what_cannot_be_is_refused(given: str, words_of_it: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(None, {}, [given])
    assert words_of_it in refused.value.message


def test_layers_that_are_off_are_not_entered_and_the_settings_bound_of_memory_wins() -> None:
    config = SandboxConfig(layers={"seccomp": "off"}, memory_bytes=7)
    assert config.confinement(memory_bytes=9, file_bytes=5) == Confinement(tuple(LAYERS)[:-1], 7, 5)
    assert SandboxConfig().confinement(memory_bytes=9, file_bytes=5).memory_bytes == 9
    assert SandboxConfig(mode="off").confinement(memory_bytes=9, file_bytes=5).layers == ()


def test_a_confinement_crosses_as_json() -> None:
    told = SandboxConfig().confinement(memory_bytes=9, file_bytes=5)
    assert Confinement.read(json.loads(json.dumps(asdict(told)))) == told


def test_a_required_layer_that_is_not_here_is_named_with_why_and_what_to_do() -> None:
    assert lacking(SandboxConfig(mode="required"), ALL) is None
    assert lacking(SandboxConfig(), NO_LANDLOCK) is None
    problem = lacking(SandboxConfig(mode="required"), NO_LANDLOCK)
    assert problem is not None
    assert "`landlock` is required" in problem.message
    assert "no such kernel" in problem.message
    assert "set `sandbox.layers.landlock` to optional" in problem.message


def test_the_state_is_told_in_one_line() -> None:
    assert words([LayerState("landlock", True, "7"), LayerState("seccomp", False, "refused")]) == (
        "landlock(7); not here: seccomp (refused); "
        "switched off: descriptors, no_new_privs, capabilities, rlimits"
    )
    assert words([]).startswith("none; switched off: descriptors")


@pytest.mark.parametrize(
    ("version", "words_of_64_bits"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3), (99, 3)]
)
def test_a_rule_set_is_as_long_as_the_kernels_version_knows(version: int, words_of_64_bits: int) -> None:
    laid = ruleset(version)
    assert len(laid) == 8 * words_of_64_bits
    files = int.from_bytes(laid[:8], "little")
    assert files == (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
