#!/bin/sh
# Builds the image, or looks at how it is written: image.sh [--lint]
#
# IMAGE names what is built (sidecar:VERSION); ENGINE is the command of the engine (docker; podman is much the same);
# IMAGE_FLAGS go to its `build`, such as '--build-arg PYTHON_IMAGE=...' or '--secret id=pip.conf,src=/etc/pip.conf'
# where packages come from a mirror.
set -eu
cd "$(dirname "$0")/.."
say() { printf '>> %s\n' "$*" >&2; }

if [ "${1:-}" = --lint ]; then
    scripts/venv.sh .venv-image requirements/image-tools.lock
    .venv-image/bin/hadolint Dockerfile tests/image/triton.Dockerfile
    say "hadolint finds nothing in the Dockerfiles"
    exit 0
fi

engine=${ENGINE:-docker}
answer=$("$engine" version 2>&1) || {
    say "no container engine answers \`$engine version\`: $(printf '%s' "$answer" | tail -n 1)"
    say "install Docker 23 or later (Debian, Ubuntu: apt-get install docker.io docker-buildx) and start it, name a running" \
        "one by DOCKER_HOST, or another command by ENGINE, such as ENGINE=podman"
    exit 3
}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image=${IMAGE:-sidecar:$version}
# The commit's time is the image's, so that one commit makes one image, as far as its base and the registries allow.
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
at=$(git log -1 --format=%ct 2>/dev/null || echo 0)
created=$(date -u -d "@$at" +%Y-%m-%dT%H:%M:%SZ)
say "building $image (the first time some minutes, most of them compiling)"
# shellcheck disable=SC2086 # flags are words
"$engine" build ${IMAGE_FLAGS:-} --tag "$image" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$created" .
"$engine" image inspect --format '>> {{index .RepoTags 0}}: {{.Size}} bytes, {{len .RootFS.Layers}} layers' "$image" >&2
