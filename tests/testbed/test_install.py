"""What the installer says of machines where Triton cannot run, and that a second run does nothing."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from testbed import install
from testbed.triton import servable

Patch = pytest.MonkeyPatch


@pytest.fixture
def able(monkeypatch: Patch) -> Patch:
    """A machine where Triton runs, whatever this one is; tests take one thing away."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr("os.confstr", lambda _: "glibc 2.36")
    monkeypatch.setattr(install, "OWN_MINOR", 11)
    monkeypatch.setattr(install, "PROJECT", Path("/srv/project"))
    assert install.why_not() is None
    return monkeypatch


def test_another_processor_is_named(able: Patch) -> None:
    able.setattr(platform, "machine", lambda: "aarch64")
    assert install.why_not() == "Triton's wheel is for Linux on x86-64, this is Linux on aarch64"


def test_a_path_that_the_shell_would_take_apart_is_named(able: Patch) -> None:
    able.setattr(install, "PROJECT", Path("/srv/my project"))
    assert install.why_not() == (
        "Triton cannot start Python models from a path with ' ' in it, this is /srv/my project"
    )


def test_an_old_glibc_is_named_beside_the_one_needed(able: Patch) -> None:
    able.setattr("os.confstr", lambda _: "glibc 2.31")
    assert install.why_not() == "Triton's wheel needs glibc 2.35 or later, this machine has 2.31"


def test_another_c_library_is_named(able: Patch) -> None:
    able.setattr("os.confstr", lambda _: None)
    assert install.why_not() == "Triton's wheel needs glibc, this machine's C library is another"


def test_a_python_without_numpy_1_is_named(able: Patch) -> None:
    able.setattr(install, "OWN_MINOR", 13)
    able.setenv("PATH", "/nonexistent")
    reason = install.why_not()
    assert reason is not None
    assert reason.startswith("Triton's models need Python 3.11 or 3.12")


def test_a_newer_python_makes_do_with_an_older_one_on_the_path(able: Patch, tmp_path: Path) -> None:
    older = tmp_path / "python3.12"
    older.write_text("#!/bin/sh\n")
    older.chmod(0o755)
    able.setattr(install, "OWN_MINOR", 13)
    able.setenv("PATH", str(tmp_path))
    assert install.why_not() is None


def test_a_machine_that_cannot_is_told_so_and_pointed_at_the_variable(
    able: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    able.setattr(platform, "system", lambda: "Darwin")
    assert install.main() == 0
    assert "SIDECAR_TRITON=host:port" in capsys.readouterr().err


@pytest.mark.triton
def test_a_second_run_installs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    if (reason := install.why_not()) is not None:
        pytest.skip(reason)
    before = install.installed()
    assert install.main() == 0
    assert capsys.readouterr().err == ""
    assert install.installed() == before


def an_installation(home: Path) -> install.Installation:
    (home / "backends").mkdir()
    return install.Installation(home / "tritonserver", home / "backends", home, ())


def test_the_sink_is_compiled_once_for_each_state_of_its_source(monkeypatch: Patch, tmp_path: Path) -> None:
    if not any(map(shutil.which, install.COMPILERS)):
        pytest.skip("there is no C compiler here")
    source = tmp_path / "sink.c"
    source.write_text("int answer(void) { return 42; }\n")
    monkeypatch.setattr(install, "NATIVE", source)
    found = an_installation(tmp_path)
    library = found.backends / "sink" / "libtriton_sink.so"
    install._compile(found)
    first = library.stat().st_mtime_ns
    install._compile(found)
    assert library.stat().st_mtime_ns == first
    source.write_text("int answer(void) { return 43; }\n")
    install._compile(found)
    assert library.stat().st_mtime_ns > first


def test_a_source_that_does_not_compile_is_told(monkeypatch: Patch, tmp_path: Path) -> None:
    if not any(map(shutil.which, install.COMPILERS)):
        pytest.skip("there is no C compiler here")
    source = tmp_path / "sink.c"
    source.write_text("no C at all\n")
    monkeypatch.setattr(install, "NATIVE", source)
    found = an_installation(tmp_path)
    for _ in range(2):
        with pytest.raises(install.CannotInstall, match=r"sink\.c could not be compiled"):
            install._compile(found)


def test_without_a_compiler_the_sink_is_left_out_and_that_is_said_once(
    monkeypatch: Patch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    found = an_installation(tmp_path)
    for _ in range(2):
        install._compile(found)
    assert capsys.readouterr().err == (
        ">> no C compiler (cc, gcc, clang) on PATH: the model 'sink' is left out\n"
    )
    (found.backends / "python").mkdir()
    (found.backends / "python" / "libtriton_python.so").touch()
    assert "echo" in servable(found)
    assert "sink" not in servable(found)


def test_without_an_installation_the_error_says_how_to_make_one(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "HOME", tmp_path)
    with pytest.raises(install.CannotInstall, match=r"python -m testbed\.install"):
        install.installed()


def test_a_libpython_that_cannot_be_had_is_named_with_its_package(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "HOME", tmp_path)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(
        install.CannotInstall, match=r"libpython3\.99\.so\.1\.0.*apt-get install libpython3\.99"
    ):
        install._libpython("libpython3.99", [tmp_path])


def test_the_interpreters_own_libpython_comes_before_any_other(tmp_path: Path) -> None:
    (tmp_path / "libpython3.99.so.1.0").touch()
    assert install._libpython("libpython3.99", [tmp_path / "elsewhere", tmp_path]) == (tmp_path,)
