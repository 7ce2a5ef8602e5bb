"""Workers of a whole sidecar are confined: by what the kernel says, and by what media can do that takes them over.

No model server is needed: what is asked is Preprocess.
"""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference_client import Client, SidecarError
from sidecar import catalogue
from sidecar.errors import SettingsError
from sidecar.recipes.loader import load_recipe
from sidecar.workers.sandbox.config import LAYERS
from testbed import faulty
from tests.isolation.deadly import Deadly
from tests.isolation.inside import CLIP, Inside, inside, picture, until
from tests.running import running

# For a server to start and stop, on a machine with much else to do.
PATIENCE_S = 100.0
SETTINGS = ("workers=2", "threads.image=4", "threads.express=0")


@contextmanager
def confined(*overrides: str) -> Iterator[Inside]:
    """A sidecar whose recipe media can make misbehave."""

    def load(*arguments: Any, **options: Any) -> Deadly:
        return Deadly(load_recipe(*arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "load_recipe", load)
        with inside({"clip": CLIP}, None, *SETTINGS, *overrides) as it:
            yield it


@pytest.fixture(scope="module")
def server() -> Iterator[Inside]:
    with confined("log.level=error") as it:
        yield it


def escaping(how: int, number: int = 0) -> bytes:
    pixels = np.full((48, 64, 3), (how, number, 0), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def refused(server: Inside, media: bytes) -> str:
    with Client(server.address) as client, pytest.raises(SidecarError) as failed:
        client.preprocess("clip", media)
    return type(failed.value).__name__


def states(pid: int) -> list[dict[str, str]]:
    """What the kernel says of each thread."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [dict(re.findall(r"^(\w+):\s+(.*)$", text, re.MULTILINE)) for text in texts]


def has(server: Inside, layer: str) -> None:
    """Skips where this kernel has no such layer."""
    if not any(state.name == layer and state.applied for state in server.crew.sandbox):
        pytest.skip(f"this kernel has no {layer}")


def test_the_kernel_says_of_every_thread_of_every_worker_that_it_is_confined(server: Inside) -> None:
    for layer in LAYERS:
        has(server, layer)
    for pid in server.pids(2):
        found = states(pid)
        assert len(found) > 1
        for state in found:
            assert (state["Seccomp"], state["NoNewPrivs"]) == ("2", "1")
            assert {int(state[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}


def test_a_worker_holds_nothing_open_but_its_channel_and_where_it_logs(server: Inside) -> None:
    for pid in server.pids(2):
        held = {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        (channel,) = (where for number, where in held.items() if number > 2)
        assert channel.startswith("socket:")
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert re.search(r"Max processes +0 +0 ", limits)
        (most,) = map(int, re.findall(r"Max open files +(\d+) ", limits))
        assert most < 64
        assert not re.search(r"Max data size +unlimited", limits)


def test_an_item_whose_job_reaches_for_a_file_fails_and_nothing_else_happens(server: Inside) -> None:
    has(server, "seccomp")
    before = server.crew
    assert refused(server, escaping(faulty.READS_A_FILE)) == "InternalError"
    assert server.crew.deaths_total == before.deaths_total
    server.nothing_left()


def test_media_that_runs_a_program_costs_its_own_request_and_is_counted_as_an_escape(server: Inside) -> None:
    has(server, "seccomp")
    before, bad = server.crew, escaping(faulty.RUNS_A_PROGRAM, 1)
    with Client(server.address) as client:
        assert refused(server, bad) == "CorruptMedia"
        assert client.preprocess("clip", picture(1)).tensor("pixel_values").size
    now = server.crew
    assert now.deaths_total - before.deaths_total == 2
    until(lambda: server.crew.escapes_total - before.escapes_total == 2, lambda: str(server.crew))
    assert refused(server, bad) == "CorruptMedia"
    assert server.crew.deaths_total == now.deaths_total
    server.pids(2)
    server.nothing_left()


def test_a_new_worker_is_confined_as_the_first_ones_were(server: Inside) -> None:
    has(server, "seccomp")
    first = server.pids(2)[0]
    os.kill(first, 9)
    until(lambda: first not in server.crew.pids and server.complete(2), lambda: str(server.crew))
    # It is told of as soon as it is there, and enters a moment later.
    until(
        lambda: all(states(pid)[0]["Seccomp"] == "2" for pid in server.pids(2)),
        lambda: str([states(pid) for pid in server.pids(2)]),
    )


def test_its_state_is_in_the_log_the_metrics_and_the_verdict(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), confined("sandbox.layers.landlock='off'") as it:
        page = urllib.request.urlopen(f"http://{it.sidecar.app.metrics_address}/metrics").read().decode()
        names = {state.name for state in it.crew.sandbox}
        with Client(it.address) as client:
            told = client.verdict().fleet.sandbox
    (line,) = (record.message for record in caplog.records if record.message.startswith("sandbox: "))
    assert line == f"sandbox: {told}"
    assert "descriptors" in told
    assert "switched off: landlock" in told
    assert names == set(LAYERS) - {"landlock"}
    assert 'sidecar_sandbox_layer{layer="descriptors"} 1.0' in page
    assert "sidecar_workers_escapes_total 0.0" in page


def test_without_processes_there_is_no_sandbox_and_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with running({"clip": CLIP}, None, "workers=0"):
        pass
    assert "sandbox: none: jobs run on threads of the front process" in caplog.text


def test_without_processes_a_required_sandbox_keeps_the_server_from_starting() -> None:
    with pytest.raises(
        SettingsError, match=r"`workers\.processes` is 0 and the sandbox's layers .* are required"
    ):
        with running({"clip": CLIP}, None, "workers=0", "sandbox=required"):
            pass


def serving(layer: str, mode: str) -> subprocess.Popen[str]:
    """`sidecar serve` under a container runtime's kind of profile that keeps a layer's calls from it."""
    settings = (
        f"sandbox.layers.{layer}={mode}",
        "workers=1",
        "server.listen=['127.0.0.1:0']",
        "metrics.listen=''",
    )
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "tests.isolation.lacking", layer, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.full
@pytest.mark.parametrize("layer", ["landlock", "seccomp"])
def test_a_server_whose_required_layer_is_kept_from_it_does_not_start_and_names_it(layer: str) -> None:
    server = serving(layer, "required")
    _, said = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 2
    assert f"the sandbox's layer `{layer}` is required" in said
    assert "is not here" in said


@pytest.mark.full
def test_a_server_whose_optional_layer_is_kept_from_it_runs_and_says_so() -> None:
    with serving("landlock", "optional") as server:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "sandbox: " in line)
        server.terminate()
        server.stderr.read()
    assert "seccomp; not here: landlock (" in line
    assert server.returncode == 0
