"""What the installer says of machines where Triton cannot run, and that a second run does nothing."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from testbed import install

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
