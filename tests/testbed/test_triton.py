"""Starting, stopping and crashing the testbed's Triton: nothing may stay behind."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.install import PROJECT, Installation, installed, why_not
from testbed.triton import ABORTS, SCRATCH, SCRATCH_PATTERN, SHARED_MEMORY, STARTS, Triton, TritonFailed

pytestmark = pytest.mark.triton


@pytest.fixture
def here() -> Installation:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    return installed()


def processes(group: int) -> list[str]:
    """The living processes of a group, as /proc tells of them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = status.read_text().rsplit(")", 1)
        except OSError:
            continue
        state, _, of_group = rest.split()[:3]
        if int(of_group) == group and state != "Z":
            found.append(name)
    return found


def is_ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def assert_comes_true(what: Callable[[], bool], within_s: float = 10.0) -> None:
    give_up = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < give_up, f"not true within {within_s} s"
        time.sleep(0.02)


def scratch() -> set[Path]:
    return set(SCRATCH.glob(SCRATCH_PATTERN))


def left_behind(directory: Path, group: int) -> list[str]:
    """What a server that has ended may have forgotten."""
    regions = [str(path) for path in SHARED_MEMORY.glob(f"{directory.name}*")]
    return [*processes(group), *regions, *([str(directory)] if directory.exists() else [])]


def fake_server(directory: Path, script: str) -> Path:
    program = directory / "tritonserver"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_a_server_that_stops_leaves_no_process_no_shared_memory_and_no_files(here: Installation) -> None:
    before = scratch()
    with Triton.start(models=("echo",), installation=here) as triton:
        pid, directory = triton.pid, triton.log.parent
        assert len(processes(pid)) >= 2  # the server and its model's interpreter
        assert list(SHARED_MEMORY.glob(f"{directory.name}*"))
        assert is_ready(triton.http_address)
        made = scratch() - before
        assert made
    assert left_behind(directory, pid) == []
    assert not made & scratch()


def test_nothing_is_left_when_the_user_of_a_server_raises(here: Installation) -> None:
    with pytest.raises(ZeroDivisionError), Triton.start(models=("echo",), installation=here) as triton:
        pid, directory = triton.pid, triton.log.parent
        _ = 1 / 0
    assert left_behind(directory, pid) == []


def test_a_killed_server_is_gone_at_once_and_comes_back_on_the_same_ports(here: Installation) -> None:
    with Triton.start(models=("echo",), installation=here) as triton:
        addresses, first = (triton.grpc_address, triton.http_address, triton.metrics_address), triton.pid
        triton.kill()
        assert processes(first) == []
        assert not is_ready(triton.http_address)
        with pytest.raises(TritonFailed, match="down"):
            _ = triton.pid
        triton.restart()
        assert is_ready(triton.http_address)
        assert (triton.grpc_address, triton.http_address, triton.metrics_address) == addresses
        assert triton.pid != first


def test_the_guard_ends_the_server_of_a_process_that_was_killed(here: Installation) -> None:
    script = (
        "import sys; from testbed.triton import Triton; t = Triton.start(models=('echo',)); "
        "print(t.pid, t.log.parent, flush=True); sys.stdin.read()"
    )
    assert here.server.exists()
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid, directory = starter.stdout.readline().split()
        starter.send_signal(signal.SIGKILL)
    assert_comes_true(lambda: left_behind(Path(directory), int(pid)) == [])


def test_a_stub_of_another_python_which_hangs_the_server_is_given_up_in_time(
    here: Installation, tmp_path: Path
) -> None:
    # The depth matters: the wheel's libraries are found relative to the stub.
    tree = tmp_path / "pytriton" / "tritonserver"
    python = tree / "backends" / "python"
    python.mkdir(parents=True)
    (tmp_path / "nvidia_pytriton.libs").symlink_to(here.server.parents[3] / "nvidia_pytriton.libs")
    for part in (here.backends / "python").iterdir():
        if part.name != "triton_python_backend_stub":
            (python / part.name).symlink_to(part)
    wrong = here.backends.parent / "python_backend_stubs" / "3.8" / "triton_python_backend_stub"
    (python / wrong.name).write_bytes(wrong.read_bytes())
    (python / wrong.name).chmod(0o755)
    began = time.monotonic()
    with pytest.raises(TritonFailed, match=r"(?s)not ready within 5 s.*libpython3\.8"):
        Triton.start(
            models=("echo",), installation=replace(here, backends=tree / "backends"), start_timeout_s=5
        )
    assert time.monotonic() - began < 5 + 5


def test_a_server_that_hangs_and_ignores_signals_is_killed_with_its_children(
    here: Installation, tmp_path: Path
) -> None:
    hangs = fake_server(
        tmp_path, f"echo $$ > {tmp_path}/pid; trap '' INT TERM; sleep 1000 & while :; do wait; done"
    )
    with pytest.raises(TritonFailed, match=r"not ready within 0\.5 s; it logged nothing"):
        Triton.start(models=(), installation=replace(here, server=hangs), start_timeout_s=0.5)
    assert processes(int((tmp_path / "pid").read_text())) == []


def test_a_server_that_exits_at_start_is_told_with_its_status_and_its_last_words(
    here: Installation, tmp_path: Path
) -> None:
    exits = fake_server(tmp_path, "echo 'error: no such thing' >&2; exit 7")
    with pytest.raises(TritonFailed, match=r"(?s)exited at start with status 7.*error: no such thing"):
        Triton.start(models=(), installation=replace(here, server=exits))


@pytest.mark.parametrize(("words", "starts"), [(ABORTS.decode(), STARTS), ("another fault", 1)])
def test_a_server_that_loses_its_own_race_at_start_is_started_again(
    here: Installation, tmp_path: Path, words: str, starts: int
) -> None:
    aborts = fake_server(tmp_path, f"echo x >> {tmp_path}/starts; echo '{words}' >&2; kill -ABRT $$")
    with pytest.raises(TritonFailed, match=rf"(?s)exited at start with status -6.*{words}"):
        Triton.start(models=(), installation=replace(here, server=aborts))
    assert (tmp_path / "starts").read_text() == "x\n" * starts


def test_an_unknown_model_is_an_error_that_names_it(here: Installation) -> None:
    with pytest.raises(TritonFailed, match="no_such_model"):
        Triton.start(models=("no_such_model",), installation=here)


def test_the_servers_environment_is_made_from_nothing(
    here: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "1")
    prints = fake_server(tmp_path, f"env > {tmp_path}/env; exit 1")
    with pytest.raises(TritonFailed):
        Triton.start(models=(), installation=replace(here, server=prints))
    environment = (tmp_path / "env").read_text()
    assert "A_SECRET" not in environment
    assert "MALLOC_MMAP_THRESHOLD_=33554432" in environment
    assert f"PATH={here.python_bin}:" in environment


def test_a_server_elsewhere_is_used_as_it_is_and_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        address = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        with Triton.start(external=address) as triton:
            assert triton.grpc_address == address
            with pytest.raises(TritonFailed, match="runs elsewhere"):
                triton.kill()


@pytest.mark.parametrize("address", ["localhost", ":8001", "localhost:grpc"])
def test_a_malformed_address_of_a_server_elsewhere_is_an_error(address: str) -> None:
    with pytest.raises(TritonFailed, match="must be host:port"):
        Triton.start(external=address)


def test_a_server_elsewhere_that_is_not_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(TritonFailed, match=f"nothing answers at {address}"):
        Triton.start(external=address)
