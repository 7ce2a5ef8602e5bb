#!/bin/sh
# Unpacks a real Prometheus and its promtool into .cache/prometheus, once; nothing is installed. Prints their folder.
#
# They are Debian's own package, fetched by apt-get and unpacked beside the checkout, so nothing needs root. Where
# both are on the PATH already, those are taken. Where neither can be, it says so and ends with 3.
set -eu
cd "$(dirname "$0")/.."
home=$PWD/.cache/prometheus

say() { printf '>> %s\n' "$*" >&2; }
without() {
    say "no Prometheus here: $*. Debian or Ubuntu with package mirrors brings it, or put prometheus and promtool" \
        "(2.42 or later) on the PATH"
    exit 3
}

if [ -x "$home/prometheus" ] && [ -x "$home/promtool" ]; then
    printf '%s\n' "$home"
    exit 0
fi
if found=$(command -v promtool) && command -v prometheus >/dev/null; then
    dirname "$found"
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || without "this machine has no apt-get and dpkg"
fresh=$home.fresh.$$
trap 'rm -rf "$fresh"' EXIT
mkdir -p "$fresh"
say "unpacking Debian's package prometheus into ${home#"$PWD"/} (once; 19 MB)"
(
    cd "$fresh"
    # Without package lists, as in a fresh container image, they are fetched into a folder of our own, because only
    # root may write apt's.
    apt-get download -qq prometheus 2>/dev/null || {
        mkdir -p state/lists/partial cache/archives/partial
        set -- -o APT::Sandbox::User=root -o "Dir::Cache=$PWD/cache" -o "Dir::State::Lists=$PWD/state/lists"
        apt-get "$@" update -qq && apt-get "$@" download -qq prometheus
    }
) || without "the package could not be fetched, apt-get's words stand above"
dpkg -x "$(ls "$fresh"/prometheus_*.deb)" "$fresh/tree"
mkdir -p "$home"
mv "$fresh/tree/usr/bin/prometheus" "$fresh/tree/usr/bin/promtool" "$home"
"$home/promtool" --version >/dev/null || { rm -rf "$home"; without "its promtool does not run"; }
printf '%s\n' "$home"
