"""Settings: four sources, one precedence, and errors that name the key, the value and what is allowed."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from sidecar.catalogue import ModelConfig
from sidecar.errors import SettingsError
from sidecar.settings import Settings, load_settings
from sidecar.stages.deliver.triton import TritonConfig


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sidecar.yaml"
    file.write_text(text)
    return file


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings(None, {}) == Settings()


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "limits: {items: 1, media_bytes: 1, image_side: 1}\n")
    environ = {"SIDECAR_LIMITS__ITEMS": "2", "SIDECAR_LIMITS__MEDIA_BYTES": "2"}
    limits = load_settings(file, environ, ["limits.items=3"]).limits
    assert (limits.items, limits.media_bytes, limits.image_side) == (3, 2, 1)
    assert limits.audio_rate == Settings().limits.audio_rate


def test_lists_and_booleans_may_come_from_text() -> None:
    environ = {
        "SIDECAR_SERVER__LISTEN": "['127.0.0.1:1', 'unix:/tmp/s']",
        "SIDECAR_SERVER__REFLECTION": "false",
    }
    server = load_settings(None, environ).server
    assert server.listen == ("127.0.0.1:1", "unix:/tmp/s")
    assert server.reflection is False


def test_a_recipe_directory_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    file = written(tmp_path, "models: {clip: {recipe: clip-vit}}\n")
    assert load_settings(file, {}).models["clip"].recipe == tmp_path / "clip-vit"
    moved = load_settings(file, {}, ["models.clip.recipe=elsewhere"])
    assert moved.models["clip"].recipe == Path("elsewhere")


def test_the_model_server_may_be_named_by_its_address_alone() -> None:
    assert load_settings(None, {"SIDECAR_TRITON": "gpu:8001"}).triton == TritonConfig("gpu:8001")


def test_the_variable_that_names_the_file_is_no_key() -> None:
    assert load_settings(None, {"SIDECAR_CONFIG": "x.yaml"}) == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sever: {}", ["unknown key `sever`", "did you mean `server`"]),
        ("server: {lisen: x}", ["unknown key `server.lisen`", "did you mean `listen`", "'x'"]),
        ("limits: {zzz: 1}", ["unknown key `limits.zzz`", "allowed here:", "image_pixels"]),
        ("limits: {items: 0}", ["`limits.items`", "0", "greater than or equal to 1"]),
        ("limits: {items: many}", ["`limits.items`", "'many'", "valid integer"]),
        ("log: {level: loud}", ["`log.level`", "'loud'", "'debug', 'info'"]),
        ("models: {clip: {reference: cv2}}", ["`models.clip.reference`", "'cv2'", "torchvision"]),
        ("models: {clip: {recipee: x}}", ["unknown key `models.clip.recipee`", "did you mean `recipe`"]),
        ("server: {reflection: {a: 1}}", ["`server.reflection` takes one value", "`a`"]),
        ("- 1", ["must hold a mapping"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(SettingsError) as wrong:
        load_settings(written(tmp_path, text), {})
    for word in [*words, "sidecar.yaml"]:
        assert word in wrong.value.message


@pytest.mark.parametrize(
    ("environ", "overrides", "words"),
    [
        ({"SIDECAR_SERVR__X": "1"}, [], ["unknown key `servr`", "environment variable SIDECAR_SERVR__X"]),
        ({"SIDECAR_GATE__MAX_QUEUED": "-1"}, [], ["`gate.max_queued`", "-1", "SIDECAR_GATE__MAX_QUEUED"]),
        ({}, ["gate.max_queued"], ["not of the form key=value"]),
        ({}, ["gate.max_queued=no"], ["`gate.max_queued`", "False", "takes no true or false"]),
        ({}, ["gate.max_queued=few"], ["`gate.max_queued`", "'few'", "--set gate.max_queued"]),
    ],
)
def test_what_is_wrong_elsewhere_is_told_with_its_source(
    environ: dict[str, str], overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as wrong:
        load_settings(None, environ, overrides)
    for word in words:
        assert word in wrong.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be read"):
        load_settings(tmp_path / "nowhere.yaml", {})


def documented() -> str:
    text = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    return text.split("```yaml\n")[1].split("```")[0]


def test_the_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, documented()), {})
    example = ModelConfig(recipe=tmp_path / "checkpoints" / "clip")
    assert settings == replace(Settings(), triton=TritonConfig("127.0.0.1:8001"), models={"clip": example})


def test_every_key_is_documented() -> None:
    tree = yaml.safe_load(documented())
    assert tree["models"]["clip"].keys() == {field.name for field in fields(ModelConfig)}
    del tree["models"]
    assert {*tree, "models"} == {field.name for field in fields(Settings)}
    defaults = replace(Settings(), triton=TritonConfig("127.0.0.1:8001"))
    for part, keys in tree.items():
        assert keys.keys() == {field.name for field in fields(getattr(defaults, part))}, part
