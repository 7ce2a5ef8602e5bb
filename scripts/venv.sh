#!/bin/sh
# Makes a virtual environment from a lock file, once: venv.sh DIR LOCK [pip options...]
#
# Runs on a bare Debian or Ubuntu too, where python3 comes without pip and ensurepip: then pip is
# taken out of Debian's own package, unpacked beside the environment and not installed, so nothing
# needs root. A second run with the same lock returns at once.
set -eu
dir=$1 lock=$2
shift 2
python=${PYTHON:-python3}

say() { printf '>> %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v "$python" >/dev/null || die "no $python here: install Python 3.11 or later, or set PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: Python 3.11 or later is needed, set PYTHON=/path/to/python3"

stamp="$dir/.installed"
want=$(cat "$lock" "$0" | cksum; "$python" --version; echo "$*")
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

pip_from_debian() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    debs="$dir/.debs"
    mkdir -p "$debs"
    say "python3 has no ensurepip: taking pip from Debian's package python3-pip-whl"
    # Without package lists, as in a fresh container image, they are fetched into a folder of our own,
    # because only root may write apt's.
    (
        cd "$debs"
        apt-get download -qq python3-pip-whl 2>/dev/null || {
            mkdir -p state/lists/partial cache/archives/partial
            set -- -o APT::Sandbox::User=root -o "Dir::Cache=$PWD/cache" -o "Dir::State::Lists=$PWD/state/lists"
            apt-get "$@" update -qq && apt-get "$@" download -qq python3-pip-whl
        }
    ) && dpkg -x "$(ls "$debs"/python3-pip-whl_*.deb)" "$debs" || return 1
    wheel=$(ls "$debs"/usr/share/python-wheels/pip-*.whl)
    "$dir/bin/python" "$wheel/pip" install -q --no-index --find-links "$debs/usr/share/python-wheels" pip && rm -rf "$debs"
}

if [ ! -x "$dir/bin/pip" ]; then
    say "making $dir"
    if ! "$python" -m venv "$dir" >/dev/null 2>&1; then
        rm -rf "$dir"
        "$python" -m venv --without-pip "$dir" && pip_from_debian ||
            die "cannot make a virtual environment with $python: it has no ensurepip, and pip could not be fetched." \
                "Try again where the package registries can be reached, or install python3-venv (Debian, Ubuntu:" \
                "apt-get install python3-venv)"
    fi
fi
say "installing $lock into $dir (once; some minutes)"
"$dir/bin/pip" install --quiet --progress-bar off --disable-pip-version-check --no-compile --require-hashes "$@" -r "$lock" ||
    die "$lock could not be installed into $dir: pip's words stand above. It needs PyPI, or a mirror named by PIP_INDEX_URL"
printf '%s\n' "$want" >"$stamp"
