"""Settings: four sources, one precedence, and errors that name the key, the value and what is allowed."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from sidecar.catalogue import ModelConfig
from sidecar.errors import SettingsError
from sidecar.settings import Settings, changed_keys, load_settings, slips
from sidecar.stages.admit.formats import FormatsConfig
from sidecar.stages.admit.limits import Limits, ModelLimits
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


@pytest.mark.parametrize(
    ("environ", "overrides", "expected"),
    [
        ({}, [], "file:1"),
        ({"SIDECAR_TRITON": "env:1"}, [], "env:1"),
        ({"SIDECAR_TRITON": "env:1"}, ["triton.address=flag:1"], "flag:1"),
        ({"SIDECAR_TRITON__ADDRESS": "env:1"}, ["triton=flag:1"], "flag:1"),
        ({}, ["triton=flag:1", "triton.address=later:1"], "later:1"),
        ({}, ["triton.address=flag:1", "triton=later:1"], "later:1"),
    ],
)
@pytest.mark.parametrize("text", ["triton: {address: 'file:1'}", "triton: 'file:1'"])
def test_the_short_form_of_a_source_ranks_as_its_long_form(
    tmp_path: Path, text: str, environ: dict[str, str], overrides: list[str], expected: str
) -> None:
    assert load_settings(written(tmp_path, text), environ, overrides).triton == TritonConfig(expected)


def test_null_takes_back_what_earlier_sources_say(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "triton: {address: 'file:1', keepalive_s: 9}\nlimits: {items: 1, image_side: 1}\nmodels: {a: {}, b: {}}",
    )
    assert load_settings(file, {}, ["triton=null"]).triton is None
    assert load_settings(file, {"SIDECAR_TRITON": "null"}).triton is None
    assert load_settings(file, {}, ["triton=null", "triton=flag:1"]).triton == TritonConfig("flag:1")
    assert load_settings(file, {"SIDECAR_LIMITS__ITEMS": "null"}).limits == Limits(image_side=1)
    assert load_settings(file, {}, ["limits=null"]).limits == Limits()
    assert load_settings(file, {}, ["models.a=null"]).models == {"b": ModelConfig()}


def test_a_mapping_counts_key_by_key(tmp_path: Path) -> None:
    file = written(tmp_path, "limits: {items: 1, image_side: 1}")
    environ = {"SIDECAR_LIMITS": "{items: 2}", "SIDECAR_MODELS": "{Big.Model: {upstream: x}}"}
    settings = load_settings(file, environ, ["limits={}", "models={clip: {recipe: r}}"])
    assert settings.limits == Limits(items=2, image_side=1)
    assert settings.models == {
        "Big.Model": ModelConfig(upstream="x"),
        "clip": ModelConfig(recipe=Path("r")),
    }


def test_variables_of_a_kubernetes_service_named_sidecar_are_no_keys() -> None:
    address = "tcp://10.0.0.1:50051"
    environ = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_SERVICE_PORT": "50051",
        "SIDECAR_SERVICE_PORT_GRPC": "50051",
        "SIDECAR_PORT": address,
        "SIDECAR_PORT_50051_TCP": address,
        "SIDECAR_PORT_50051_TCP_PROTO": "tcp",
        "SIDECAR_PORT_50051_TCP_PORT": "50051",
        "SIDECAR_PORT_50051_TCP_ADDR": "10.0.0.1",
        "SIDECAR_METRICS_SERVICE_HOST": "10.0.0.2",
        "SIDECAR_METRICS_PORT": address,
        "SIDECAR_TRITON_SERVICE_PORT": "8001",
        "SIDECAR_TRITON_PORT": address,
        "SIDECAR_TRITON_PORT_8001_TCP_ADDR": "10.0.0.3",
        "SIDECAR_CONFIG": "x.yaml",
    }
    assert load_settings(None, environ) == Settings()
    assert slips(environ) == ()


def test_a_variable_that_looks_like_a_key_written_wrong_is_a_slip() -> None:
    wrong = ("SIDECAR_LIMIT", "SIDECAR_SERVER_DRAIN_S", "SIDECAR_TRITN", "SIDECAR_TRITON_ADDRESS")
    right = ("SIDECAR_LIMITS", "SIDECAR_SERVER__DRAIN_S", "SIDECAR_TRITON", "PATH", "LIMITS")
    environ = dict.fromkeys((*wrong, *right), "1")
    assert slips(environ) == wrong
    assert load_settings(None, dict.fromkeys(wrong, "1")) == Settings()


def test_a_model_may_not_take_more_items_than_any_request(tmp_path: Path) -> None:
    text = "models: {clip: {max_items: 9}}\nlimits: {items: %d}"
    assert load_settings(written(tmp_path, text % 9), {}).models["clip"].max_items == 9
    with pytest.raises(
        SettingsError, match=r"`models\.clip\.max_items` has the value 9.*`limits\.items`.* 8"
    ):
        load_settings(written(tmp_path, text % 8), {})


@pytest.mark.parametrize(
    "listen",
    [
        ["127.0.0.1:0", "127.0.0.1:0"],
        ["localhost:1", "[::1]:65535", "[::]:1", "my-pod.ns.svc:50051"],
        ["unix:/run/s.sock", "unix:s.sock", "unix:///run/s.sock", "unix-abstract:s"],
    ],
)
def test_addresses_of_every_form_are_taken(listen: list[str]) -> None:
    assert load_settings(None, {}, [f"server.listen={listen}"]).server.listen == tuple(listen)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("[]", "no address"),
        ("[nonsense]", "'nonsense'"),
        ("['']", "''"),
        ("[':50051']", "':50051'"),
        ("['::1:50051']", "'::1:50051'"),
        ("['localhost:65536']", "'localhost:65536'"),
        ("['localhost:']", "'localhost:'"),
        ("['unix:']", "'unix:'"),
        ("['http://localhost:1']", "'http://localhost:1'"),
        ("['a:1', 'b:1', 'a:1']", "'a:1'"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(value: str, word: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load_settings(None, {}, [f"server.listen={value}"])
    assert f"`server.listen` has {word}: allowed" in wrong.value.message
    assert wrong.value.facts.keys() == {"key", "value", "allowed"}


@pytest.mark.parametrize("value", ["nonsense", "unix:/run/s", "localhost:65536", "9400"])
def test_metrics_are_served_at_a_port_or_nowhere(value: str) -> None:
    assert load_settings(None, {}, ["metrics.listen="]).metrics.listen == ""
    with pytest.raises(SettingsError, match=r"`metrics\.listen`"):
        load_settings(None, {}, [f"metrics.listen={value}"])


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
        ("limits: 3", ["`limits`", "3", "takes keys of its own"]),
        ("models: {clip: recipe}", ["`models.clip`", "'recipe'", "takes keys of its own"]),
        ("zzz: null", ["unknown key `zzz`"]),
        ("- 1", ["must hold a mapping"]),
        ("log: {level: 2026-13-45}", ["not valid YAML"]),
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
        ({"SIDECAR_LIMITS": "{itmes: 3}"}, [], ["unknown key `limits.itmes`", "`items`", "SIDECAR_LIMITS"]),
        ({"SIDECAR_SERVER": "host"}, [], ["`server`", "takes keys of its own", "SIDECAR_SERVER"]),
        ({}, ["models={clip: {recipee: x}}"], ["unknown key `models.clip.recipee`", "did you mean `recipe`"]),
        ({}, ["triton.keepalive_s=9"], ["`triton.address` is missing"]),
        ({}, ["triton=gpu"], ["`triton.address`", "'gpu'", "host:port"]),
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


def test_a_models_limits_are_keys_of_their_own_and_are_checked_as_those_of_all(tmp_path: Path) -> None:
    file = written(tmp_path, "models: {clip: {limits: {image_side: 500}}}\nformats: {deny: [webp]}")
    settings = load_settings(file, {}, ["models.clip.limits.audio_seconds=1.5"])
    assert settings.models["clip"].limits == ModelLimits(image_side=500, audio_seconds=1.5)
    assert settings.formats == FormatsConfig(deny=("webp",))
    for flag, words in (
        ("models.clip.limits.image_side=0", r"`models\.clip\.limits\.image_side` has the value 0"),
        ("models.clip.limits.items=3", r"unknown key `models\.clip\.limits\.items`"),
        ("limits.metadata_bytes=99999999", r"`limits\.metadata_bytes` has the value 99999999"),
        ("limits.audio_streams=65", r"`limits\.audio_streams` has the value 65"),
        ("formats.deny=[jpg]", r"`formats\.deny` has 'jpg'"),
    ):
        with pytest.raises(SettingsError, match=words):
            load_settings(file, {}, [flag])


def test_keys_that_differ_are_named_and_no_others() -> None:
    before = Settings(models={"clip": ModelConfig()})
    after = replace(
        before, gate=replace(before.gate, patience_s=9.0), models={}, triton=TritonConfig("127.0.0.1:8001")
    )
    assert changed_keys(before, before) == []
    assert changed_keys(before, after) == ["gate.patience_s", "triton", "models"]
