# The testbed's real Triton in a container of its own, with its models: the neighbour in tests/image.
ARG PYTHON_IMAGE=python:3.11-slim-trixie
FROM ${PYTHON_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /testbed
COPY requirements/models.lock requirements/triton.lock requirements/
COPY scripts/venv.sh scripts/
COPY testbed/__init__.py testbed/install.py testbed/
COPY testbed/native testbed/native
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf python -m testbed.install
COPY testbed testbed
COPY tests/image/model_server.py tests/image/
# A model that takes its time, so that a call is still under way when the sidecar is told to stop.
RUN cp -r testbed/models/accelerator testbed/models/slow && \
    sed -i 's/string_value: "10"/string_value: "3000"/' testbed/models/slow/config.pbtxt
# Another user than the sidecar's, as in a pod, and the same group: that is how both reach one /dev/shm.
USER 1000:10001
ENTRYPOINT ["python", "-m", "tests.image.model_server"]
