# The sidecar's image: docs/image.md says what is in it, how it is built and how it is checked.
# BuildKit builds it (Docker 23 or later), for amd64 and arm64: `make image`.

# A Debian with a Python of 3.11 or later; by digest for a release.
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG TARGETARCH
# `auto`: pillow-simd compiled with AVX2 for amd64, Pillow elsewhere. `pillow`: Pillow everywhere, for any processor.
ARG PILLOW=auto
# What Pillow must be built with, in its own words; the build fails where a base's library is too old.
ARG DECODERS="jpg zlib libtiff webp avif"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off

# The headers of Python are looked for: Debian's own Python has them in a package of their own.
# hadolint ignore=DL3008,SC2086
RUN if [ "$PILLOW-${TARGETARCH:-$(dpkg --print-architecture)}" = auto-amd64 ]; then \
        python -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
            && headers='' || headers=python3-dev; \
        apt-get update && \
        apt-get install -y --no-install-recommends gcc libc6-dev libavif-dev libjpeg62-turbo-dev libtiff-dev \
            libwebp-dev zlib1g-dev $headers && \
        rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /src
COPY requirements/image-build.lock requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m venv /opt/build && \
    /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/image-build.lock
COPY requirements/server.lock requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m venv --without-pip /opt/venv && \
    /opt/build/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes \
        --only-binary :all: -r requirements/server.lock
# Only the formats' own libraries: no parser of fonts, of JPEG 2000 or of colour profiles is linked. Debian's packages
# that they come from are written down for the image.
COPY requirements/simd.lock requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    touch /opt/packages && \
    if [ "$PILLOW-${TARGETARCH:-$(dpkg --print-architecture)}" = auto-amd64 ]; then \
        CC='cc -mavx2' CFLAGS="-O3 -g0 -I/usr/include/$(gcc -print-multiarch)" /opt/build/bin/pip wheel --no-build-isolation --no-deps --no-binary :all: \
            -C jpeg2000=disable -C freetype=disable -C raqm=disable -C fribidi=disable -C lcms=disable \
            -C imagequant=disable -C xcb=disable \
            --require-hashes -r requirements/simd.lock -w /opt/simd && \
        /opt/build/bin/pip --python /opt/venv/bin/python uninstall -y pillow && \
        /opt/build/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --no-index /opt/simd/*.whl && \
        echo avx2 > /opt/venv/needs-processor && \
        ldd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/PIL/*.so | \
            awk '$2 == "=>" {print $3}' | xargs realpath | sort -u | xargs dpkg-query -S 2>/dev/null | \
            cut -d: -f1 | sort -u > /opt/packages; \
    fi && \
    /opt/venv/bin/python -c 'import sys; from PIL import features; none = [x for x in sys.argv[1:] if not features.check(x)]; \
        sys.exit(f"this base has no library for {none}: take a newer one, or set DECODERS" if none else 0)' $DECODERS

COPY pyproject.toml README.md ./
COPY protos protos
COPY inference_client inference_client
COPY sidecar sidecar
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --no-index -w /opt/wheel . && \
    /opt/build/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --no-index /opt/wheel/*.whl
# Libraries' own tests and debug symbols go; kernels and byte code are compiled here, since the image is never written.
COPY scripts/kernels.py scripts/
RUN find /opt/venv -type d -name tests -prune -exec rm -rf {} + && \
    packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
    /opt/venv/bin/python scripts/kernels.py "$packages/sidecar/stages/kept" && \
    find /opt/venv -type d -name __pycache__ -prune -exec rm -rf {} + && \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv


FROM ${PYTHON_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# What installs packages of Python goes with them: what runs is in /opt/venv.
# hadolint ignore=DL3008,SC2046
RUN --mount=type=bind,from=build,source=/opt/packages,target=/opt/packages \
    apt-get update && \
    apt-get install -y --no-install-recommends tini $(cat /opt/packages) && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log && \
    rm -rf "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" /usr/local/bin/pip* && \
    groupadd --gid 10001 sidecar && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sidecar && \
    rm -f /var/log/lastlog /var/log/faillog
COPY --from=build /opt/venv /opt/venv
COPY image/config.yaml /etc/sidecar/config.yaml
ENV PATH=/opt/venv/bin:$PATH LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN --mount=type=bind,source=scripts/sbom.py,target=/opt/sbom.py \
    mkdir /usr/share/sbom && /opt/venv/bin/python /opt/sbom.py > /usr/share/sbom/sidecar.cdx.json

USER 10001:10001
# gRPC (both APIs, health), and /metrics with the status page.
EXPOSE 50051 9400
STOPSIGNAL SIGTERM
# Health is gRPC's own (grpc.health.v1), which orchestrators ask themselves; a command would start a Python each time.
HEALTHCHECK NONE
# tini hands SIGTERM on and buries what a worker leaves behind.
ENTRYPOINT ["tini", "--", "sidecar"]
CMD ["serve", "--config", "/etc/sidecar/config.yaml"]

ARG VERSION=0 REVISION=unknown CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="multimodal-sidecar" \
      org.opencontainers.image.description="A preprocessing sidecar that keeps the GPU fed" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.documentation="docs/image.md"
