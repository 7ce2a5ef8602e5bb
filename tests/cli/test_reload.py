"""Settings read anew by a running server: on SIGHUP, and when the file, or what its name leads to, is another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_client import Client, InvalidRequest, UnknownModel
from sidecar.cli.reload import Reload, look
from sidecar.errors import SettingsError
from tests import corpus
from tests.running import CHECKPOINTS
from tests.serving import Serving, calling, serving


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A settings file as the kubelet mounts it: a link to a file in a folder that is a link too."""
    (tmp_path / "..one").mkdir()
    (tmp_path / "..one/sidecar.yaml").write_text("threads: {image: 1}\n")
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "sidecar.yaml").symlink_to("..data/sidecar.yaml")
    return tmp_path / "sidecar.yaml"


@pytest.fixture
def server(tmp_path: Path, mounted: Path) -> Iterator[Serving]:
    clip = f"models.clip.recipe={CHECKPOINTS / 'clip-vit-base-patch32'}"
    with serving(tmp_path, "--config", str(mounted), "--set", clip) as started:
        started.becomes("threads.image", 1)
        yield started


def exchange(mounted: Path, text: str, name: str = "..two") -> None:
    """As the kubelet does it: a new folder, and the link to it put in place of the old one at once."""
    folder = mounted.parent / name
    folder.mkdir()
    (folder / "sidecar.yaml").write_text(text)
    (mounted.parent / "..data_tmp").symlink_to(name)
    (mounted.parent / "..data_tmp").replace(mounted.parent / "..data")


def test_a_mounted_file_that_is_exchanged_moves_the_plan(server: Serving, mounted: Path) -> None:
    exchange(mounted, "threads: {image: 3, audio: 2}\n")
    server.becomes("threads.image", 3)
    assert server.plan()["threads.audio"] == 2


def test_a_signal_reads_the_settings_anew(server: Serving, mounted: Path) -> None:
    before = mounted.stat()
    mounted.write_text("threads: {image: 2}\n")
    os.utime(
        mounted, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # the same size and time: nothing is seen by itself
    server.send(signal.SIGHUP)
    server.becomes("threads.image", 2)


def test_settings_that_are_wrong_are_told_and_change_nothing(server: Serving, mounted: Path) -> None:
    exchange(mounted, "threads: {image: many}\n")
    server.says("the old ones stay")
    exchange(mounted, "threads: {image: 4096}\n", "..three")
    server.says("only wait for each other")
    assert server.plan()["threads.image"] == 1
    exchange(mounted, "threads: {image: 2}\n", "..four")
    server.becomes("threads.image", 2)


def test_watching_is_ended_and_begun_again_and_who_watches_is_told(server: Serving, mounted: Path) -> None:
    with Client(server.address) as client, Client(server.address) as watching:
        seen = watching.watch()
        next(seen)
        exchange(mounted, "threads: {image: 1}\nverdict: {enabled: false}\n")
        with pytest.raises(InvalidRequest, match=r"set `verdict\.enabled`"):
            for _ in seen:
                pass
        with pytest.raises(InvalidRequest, match=r"set `verdict\.enabled`"):
            client.verdict()
        exchange(mounted, "threads: {image: 2}\nverdict: {window_s: 5}\n", "..three")
        server.becomes("threads.image", 2)
        assert client.verdict().window_s == 5


def test_a_format_is_turned_off_and_on_again_while_the_server_runs(server: Serving, mounted: Path) -> None:
    webp, png = (corpus.image(name) for name in ("webp_lossy.webp", "png_rgb.png"))

    def refusal(media: bytes) -> str:
        with Client(server.address) as client:
            (answer,) = client.preprocess("clip", [media])
            return str(answer.problem or "")

    assert not refusal(webp)
    exchange(mounted, "formats: {deny: [webp]}\n")
    server.awaits(lambda: "turned off here by `formats.deny`" in refusal(webp))
    assert not refusal(png)
    exchange(mounted, "formats: {allow: [webp]}\n", "..three")
    server.awaits(lambda: not refusal(webp))
    assert "item 0 is png, which is turned off here by `formats.allow`: send one of webp" in refusal(png)


def test_limits_of_all_and_of_a_model_move_while_the_server_runs(server: Serving, mounted: Path) -> None:
    picture = corpus.image("png_rgb.png")

    def refusal() -> str:
        with Client(server.address) as client:
            (answer,) = client.preprocess("clip", [picture])
            return str(answer.problem or "")

    assert not refusal()
    exchange(mounted, "limits: {image_pixels: 9}\n")
    server.awaits(lambda: "`limits.image_pixels` is 9" in refusal())
    exchange(mounted, "limits: {image_pixels: 9}\nmodels: {clip: {limits: {image_side: 8}}}\n", "..three")
    server.awaits(lambda: "`models.clip.limits.image_side` is 8" in refusal())
    exchange(mounted, "threads: {image: 1}\n", "..four")
    server.awaits(lambda: not refusal())


def test_a_recipe_changes_under_load_without_losing_a_call(
    tmp_path: Path, mounted: Path, server: Serving
) -> None:
    keys = json.loads((CHECKPOINTS / "clip-vit-base-patch32/preprocessor_config.json").read_text())
    picture = corpus.image("png_rgb.png")
    recipe = tmp_path / "recipe"
    recipe.mkdir()

    def pixels(model: str) -> NDArray[Any]:
        with Client(server.address) as client:
            return client.preprocess(model, picture, fresh=True).tensor("pixel_values")

    def serves(*names: str) -> bool:
        with Client(server.address) as client:
            return {model.name for model in client.models()} == {"clip", *names}

    before = pixels("clip")
    with calling(server.address, picture):
        for turn, (mean, names) in enumerate([(0.25, ["mine"]), (0.75, ["mine", "other"]), (0.5, ["mine"])]):
            (recipe / "preprocessor_config.json").write_text(json.dumps(keys | {"image_mean": [mean] * 3}))
            told = ", ".join(f"{name}: {{recipe: {recipe}}}" for name in names)
            exchange(mounted, f"models: {{{told}}}\n", f"..turn{turn}")
            server.awaits(partial(serves, *names))
            expected = (before * _std(keys) + _column(keys["image_mean"]) - mean) / _std(keys)
            np.testing.assert_allclose(pixels("mine"), expected, atol=1e-5)
    with pytest.raises(UnknownModel, match="there are: clip, mine"):
        pixels("other")


def _std(keys: dict[str, Any]) -> NDArray[Any]:
    return _column(keys["image_std"])


def _column(values: list[float]) -> NDArray[Any]:
    return np.array(values, np.float32).reshape(3, 1, 1)


def test_a_recipe_that_cannot_be_followed_leaves_the_old_one_and_is_told(
    server: Serving, mounted: Path, tmp_path: Path
) -> None:
    exchange(mounted, f"threads: {{image: 3}}\nmodels: {{mine: {{recipe: {tmp_path}/nowhere}}}}\n")
    server.says("the old ones stay: model 'mine'")
    assert server.plan()["threads.image"] == 1
    with Client(server.address) as client:
        assert [model.name for model in client.models()] == ["clip"]


async def test_a_change_since_the_settings_were_read_counts_and_a_fault_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("a")
    seen, calls = look(file), 0
    done = asyncio.Event()
    file.write_text("other")

    async def reconfigure() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            file.write_text("and another")
            raise ZeroDivisionError
        done.set()

    watching = asyncio.create_task(Reload(reconfigure, file, seen).watch())
    await done.wait()
    watching.cancel()


async def test_what_was_refused_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.cli.reload._AGAIN_S", 0.0)
    file = tmp_path / "s.yaml"
    file.write_text("a")
    tries, done = 0, asyncio.Event()

    async def reconfigure() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise SettingsError("no", key="a", value="b", allowed="c")
        done.set()

    watching = asyncio.create_task(Reload(reconfigure, file, None).watch())
    await done.wait()
    watching.cancel()


def test_what_takes_a_restart_is_named(server: Serving, mounted: Path) -> None:
    exchange(mounted, "threads: {image: 2}\ngate: {patience_s: 9}\nlimits: {items: 3}\n")
    server.becomes("threads.image", 2)
    server.says("takes a restart: gate.patience_s")
