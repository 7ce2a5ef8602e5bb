#!/bin/sh
# Builds the image: image.sh [--lint | --test]
#
#   --lint   only looks at how the Dockerfiles are written
#   --test   builds it, and then runs it for real (tests/image); KEEP=1 has docs/image.md show what was found
#
# IMAGE names what is built (sidecar:VERSION); ENGINE is the engine's command (docker; podman is much the same);
# IMAGE_FLAGS go to every build, such as '--build-arg PYTHON_IMAGE=...' or, where packages come from a mirror,
# '--secret id=pip.conf,src=/etc/pip.conf'.
set -eu
cd "$(dirname "$0")/.."
say() { printf '>> %s\n' "$*" >&2; }

if [ "${1:-}" = --lint ]; then
    scripts/venv.sh .venv-image requirements/image-tools.lock
    .venv-image/bin/hadolint Dockerfile tests/image/triton.Dockerfile
    say "hadolint has no finding"
    exit 0
fi

engine=${ENGINE:-docker}
answer=$("$engine" version 2>&1) || {
    say "no container engine answers \`$engine version\`: $(printf '%s' "$answer" | tail -n 1)"
    say "install Docker 23 or later and start it (Debian, Ubuntu: apt-get install docker.io docker-buildx), name a" \
        "running one by DOCKER_HOST, or another command by ENGINE, such as ENGINE=podman"
    exit 3
}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image=${IMAGE:-sidecar:$version}
# The commit and its time are the image's, so that building a commit again gives the same labels.
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
created=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)
say "building $image (the first time some minutes, most of them compiling)"
# shellcheck disable=SC2086 # flags are words
"$engine" build ${IMAGE_FLAGS:-} --tag "$image" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$created" .
"$engine" image inspect --format "$image: {{.Size}} bytes in {{len .RootFS.Layers}} layers" "$image"
[ "${1:-}" = --test ] || exit 0
status=0
.venv/bin/python -m tests.image "$image" ${KEEP:+--keep bench/results/image.json} || status=$?
[ -z "${KEEP:-}" ] || .venv/bin/python scripts/figures.py
exit $status
