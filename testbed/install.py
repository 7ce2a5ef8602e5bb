"""Builds the testbed's Triton in `.triton/`, once: `python -m testbed.install`.

The server and its Python backend come out of the nvidia-pytriton wheel, the ONNX models out of two
others; the models run in `.venv-models`, an interpreter with numpy < 2, because with numpy 2 this
server's Python backend answers with empty tensors and no error. The backend's stub, one binary per
Python minor version, wants the shared libpython, which Debian's python3 comes without: then it is
unpacked out of Debian's own package. A backend of our own, `native/sink.c`, is compiled where there is a
C compiler; without one its model is left out. Nothing here needs root, and nothing is written outside
`.triton/` and `.venv-models`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
HOME = PROJECT / ".triton"
MODELS_ENVIRONMENT = PROJECT / ".venv-models"

# The wheel's tag is manylinux_2_35_x86_64.
GLIBC = (2, 35)
# Both a stub in the wheel (3.8 to 3.13) and a numpy 1.26 wheel (3.9 to 3.12), from the project's own 3.11 on.
PYTHON_MINORS = (12, 11)
OWN_MINOR = sys.version_info.minor
# The largest step downloads 75 MB; out of the air, for a slow line.
STEP_TIMEOUT_S = 900.0

# Triton starts the stub of a Python model through a shell and does not quote its path.
UNQUOTABLE = re.compile(r"[^\w@%+=:,./~-]")

# Any of these; nothing beyond C11 and POSIX is needed, and no headers but the compiler's.
COMPILERS = ("cc", "gcc", "clang")
NATIVE = PROJECT / "testbed" / "native" / "sink.c"

# What decides whether an installation is still the one wanted.
INGREDIENTS = (
    "requirements/models.lock",
    "requirements/triton.lock",
    "scripts/venv.sh",
    "testbed/install.py",
)


class CannotInstall(Exception):
    """Triton cannot be put on this machine; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the parts of an installed Triton lie.

    `library_dirs` go into LD_LIBRARY_PATH (none where the loader finds libpython by itself);
    `python_bin` goes first into PATH, which is how the stub finds its interpreter's packages.
    """

    server: Path
    backends: Path
    python_bin: Path
    library_dirs: tuple[Path, ...]


def why_not() -> str | None:
    """Why this machine cannot run the wheel's Triton, in a sentence; None where it can."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"Triton's wheel is for Linux on x86-64, this is {system} on {machine}"
    glibc = _glibc()
    if glibc is None:
        return "Triton's wheel needs glibc, this machine's C library is another"
    if glibc < GLIBC:
        return f"Triton's wheel needs glibc {_dotted(GLIBC)} or later, this machine has {_dotted(glibc)}"
    if (found := UNQUOTABLE.search(str(PROJECT))) is not None:
        return f"Triton cannot start Python models from a path with {found[0]!r} in it, this is {PROJECT}"
    if _interpreter() is None:
        return (
            f"Triton's models need Python 3.11 or 3.12 (no numpy < 2 for others), this is "
            f"{platform.python_version()} and neither python3.12 nor python3.11 is on PATH"
        )
    return None


def installed() -> Installation:
    """The finished installation. CannotInstall where there is none, or one of older ingredients."""
    found = _read()
    if found is None:
        raise CannotInstall(
            "Triton is not installed here, or from older lock files: run `python -m testbed.install`"
        )
    return found


def install() -> Installation:
    """Makes the installation where it is missing or out of date, and returns it.

    Runs of several processes wait for one another. Raises CannotInstall.
    """
    if (reason := why_not()) is not None:
        raise CannotInstall(reason)
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _read() or _build()
        _compile(found)
        return found


def main() -> int:
    """Installs and says how it went. A machine that can never run it is told so and is no failure."""
    if (reason := why_not()) is not None:
        _say(f"no Triton here: {reason}; set SIDECAR_TRITON=host:port to use one elsewhere")
        return 0
    try:
        install()
    except CannotInstall as error:
        _say(str(error))
        return 1
    return 0


def _build() -> Installation:
    _run(
        [
            "env",
            f"PYTHON={_interpreter()}",
            "scripts/venv.sh",
            str(MODELS_ENVIRONMENT),
            "requirements/models.lock",
        ],
        why="the models' interpreter could not be made",
    )
    wheels = HOME / "wheels"
    _say("installing Triton and the ONNX models into .triton (once; 75 MB)")
    shutil.rmtree(wheels, ignore_errors=True)
    pip = str(MODELS_ENVIRONMENT / "bin" / "pip")
    quietly = ("--quiet", "--progress-bar", "off", "--disable-pip-version-check", "--no-compile")
    locked = ("--no-deps", "--require-hashes", "-r", "requirements/triton.lock")
    _run(
        [pip, "install", *quietly, *locked, "--target", str(wheels)],
        why="Triton's wheel could not be installed",
    )
    tree = wheels / "pytriton" / "tritonserver"
    minor, search = _asked_of(MODELS_ENVIRONMENT / "bin" / "python")
    stub = tree / "backends" / "python" / "triton_python_backend_stub"
    shutil.copyfile(tree / "python_backend_stubs" / minor / stub.name, stub)
    found = Installation(
        server=tree / "bin" / "tritonserver",
        backends=tree / "backends",
        python_bin=MODELS_ENVIRONMENT / "bin",
        library_dirs=_libpython(f"libpython{minor}", search),
    )
    for program in (stub, found.server):
        program.chmod(0o755)
    _write(found)
    _say("Triton is installed")
    return found


def _compile(found: Installation) -> None:
    """Makes the native backend where it is missing or its source has changed; says so where it cannot be."""
    compiler = next((path for path in map(shutil.which, COMPILERS) if path), None)
    # Beside what was made, so that a tree unpacked anew gets it anew, and a compiler found later is used.
    home = found.backends / NATIVE.stem
    library, stamp = home / f"libtriton_{NATIVE.stem}.so", home / "made-of"
    wanted = f"{hashlib.sha256(NATIVE.read_bytes()).hexdigest()} {compiler}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    if compiler is None:
        _say(f"no C compiler ({', '.join(COMPILERS)}) on PATH: the model {NATIVE.stem!r} is left out")
    else:
        flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library))
        _run([compiler, *flags, str(NATIVE)], why=f"{NATIVE.name} could not be compiled")
    stamp.write_text(wanted)


def _interpreter() -> Path | None:
    """The Python to run models with: the one running this where it serves, else one on PATH."""
    if OWN_MINOR in PYTHON_MINORS:
        # Not the virtual environment's python: its base, so that `.venv-models` stands by itself.
        return Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = (shutil.which(f"python3.{minor}") for minor in PYTHON_MINORS)
    return next((Path(path).resolve() for path in found if path), None)


def _asked_of(python: Path) -> tuple[str, tuple[Path, ...]]:
    """The interpreter's "3.x", and the directories where its build may have put a shared libpython."""
    question = (
        "import json, sys, sysconfig as s; v = s.get_config_var; "
        "print(json.dumps(['%d.%d' % sys.version_info[:2], v('LIBDIR'), sys.base_prefix + '/lib']))"
    )
    minor, *directories = json.loads(
        _run([str(python), "-c", question], why="the models' interpreter is broken")
    )
    return minor, tuple(Path(directory) for directory in directories if directory)


def _libpython(package: str, search: Sequence[Path]) -> tuple[Path, ...]:
    """What LD_LIBRARY_PATH needs for the stub: the interpreter's own libpython before any other."""
    library = f"{package}.so.1.0"
    for directory in search:
        if (directory / library).exists():
            return (directory,)
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if ldconfig and library in _run([ldconfig, "-p"], why="the loader's cache could not be read"):
        return ()
    _say(f"{library} is not here: taking it out of the package {package}")
    unpacked = HOME / "libpython"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    advice = f"install the package {package} (Debian, Ubuntu: apt-get install {package}), then try again"
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise CannotInstall(f"Triton's Python backend needs {library}, which is not here: {advice}")
    package_file = _download_deb(package, unpacked, advice)
    _run(
        ["dpkg", "-x", str(package_file), str(unpacked)],
        why=f"{package_file.name} could not be unpacked; {advice}",
    )
    found = next(unpacked.glob(f"usr/lib/*/{library}"), None)
    if found is None:
        raise CannotInstall(f"the package {package} carries no {library}: {advice}")
    return (found.parent,)


def _download_deb(package: str, directory: Path, advice: str) -> Path:
    download = ["download", "-qq", package]
    if not _succeeds(["apt-get", *download], directory):
        # No package lists here, as in a fresh container image. They are fetched into a directory of
        # our own, because only root may write apt's.
        for part in ("state/lists/partial", "cache/archives/partial"):
            (directory / "apt" / part).mkdir(parents=True)
        own = ["apt-get", "-o", "APT::Sandbox::User=root", "-o", f"Dir::Cache={directory}/apt/cache"]
        own += ["-o", f"Dir::State::Lists={directory}/apt/state/lists"]
        _run([*own, "update", "-qq"], why=f"apt-get update failed; {advice}")
        _run([*own, *download], why=f"apt-get download {package} failed; {advice}", directory=directory)
        shutil.rmtree(directory / "apt")
    return next(directory.glob(f"{package}_*.deb"))


def _wanted() -> str:
    """Names the ingredients and the interpreter; an installation of another name is made anew."""
    digest = hashlib.sha256()
    for name in INGREDIENTS:
        digest.update((PROJECT / name).read_bytes())
    return f"{digest.hexdigest()} {_interpreter()} {platform.python_version()} {PROJECT}"


def _stamp() -> Path:
    return HOME / "installed.json"


def _write(found: Installation) -> None:
    places = {"server": found.server, "backends": found.backends, "python_bin": found.python_bin}
    stamp = {
        "wanted": _wanted(),
        **{key: str(path) for key, path in places.items()},
        "library_dirs": [str(path) for path in found.library_dirs],
    }
    _stamp().write_text(json.dumps(stamp, indent=1) + "\n")


def _read() -> Installation | None:
    try:
        stamp = json.loads(_stamp().read_text())
        if stamp["wanted"] != _wanted():
            return None
        found = Installation(
            server=Path(stamp["server"]),
            backends=Path(stamp["backends"]),
            python_bin=Path(stamp["python_bin"]),
            library_dirs=tuple(Path(path) for path in stamp["library_dirs"]),
        )
    except (OSError, ValueError, KeyError):
        return None
    parts = (found.server, found.backends, found.python_bin / "python3", *found.library_dirs)
    return found if all(part.exists() for part in parts) else None


def _glibc() -> tuple[int, int] | None:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = version.split(".")[:2]
    except ValueError:
        return None
    return (int(major), int(minor)) if name == "glibc" else None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _run(command: Sequence[str], *, why: str, directory: Path = PROJECT) -> str:
    """Runs a step and returns its stdout; its stderr passes through, because it tells of progress."""
    try:
        done = subprocess.run(  # noqa: S603 - every command is spelled out in this file
            command, cwd=directory, check=True, stdout=subprocess.PIPE, text=True, timeout=STEP_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        raise CannotInstall(f"{why} (exit status {error.returncode}, its own words stand above)") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotInstall(f"{why}: {error}") from error
    return done.stdout


def _succeeds(command: Sequence[str], directory: Path) -> bool:
    done = subprocess.run(  # noqa: S603 - every command is spelled out in this file
        command,
        cwd=directory,
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=STEP_TIMEOUT_S,
    )
    return done.returncode == 0


def _say(line: str) -> None:
    sys.stderr.write(f">> {line}\n")


if __name__ == "__main__":
    sys.exit(main())
