# The verbs of the project. Each works alone in a fresh clone and sets up what it needs, once.
# Needed beforehand: Python 3.11 or later (or PYTHON=/path/to/python3), make, and the package registries.
SHELL := /bin/sh
.DEFAULT_GOAL := help
RUN := .venv/bin/python

.PHONY: help
help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install everything into .venv (all other verbs do it for you)
	@scripts/setup.sh

.PHONY: testbed
testbed: setup ## unpack the real Triton and its test models (demo and test do it for you)
	@$(RUN) -m testbed.install

.PHONY: demo
demo: setup testbed ## start a real Triton and the sidecar, send an image and a sound, show what happened
	@$(RUN) -m demo

.PHONY: serve
serve: setup ## run the server: make serve CONFIG=my.yaml
	@$(RUN) -m sidecar serve $(if $(CONFIG),--config $(CONFIG))

.PHONY: test
test: setup testbed ## run the tests
	@scripts/test.sh

.PHONY: check
check: setup testbed ## run the long suites too: full parity, torchvision, mutations, a short round of fuzzing
	@scripts/test.sh --full

.PHONY: alerts-test
alerts-test: setup testbed ## test alerts by a real promtool, and every query against a running server
	@scripts/prometheus.sh >/dev/null
	@$(RUN) -m pytest tests/helm

.PHONY: lint
lint: setup ## check style, types, import contracts, the wire contract and what is generated
	@scripts/lint.sh

.PHONY: fuzz
fuzz: setup ## fuzz whatever takes bytes from outside, an hour a target: make fuzz SECONDS=60 NAMES="probe decode"
	@scripts/fuzz.sh $(NAMES) --seconds $(or $(SECONDS),3600)

.PHONY: bench
bench: setup testbed ## run the benchmarks and write bench/results/
	@scripts/peers.sh
	@$(RUN) -m bench; status=$$?; $(RUN) scripts/figures.py && exit $$status

.PHONY: chart
chart: setup ## make what is made of the Helm chart: its schema, its page, what sidecar inject adds
	@scripts/chart.sh make

.PHONY: chart-test
chart-test: setup ## hold the chart against Helm, Kubernetes' schemas and policies
	@scripts/chart.sh test

.PHONY: image
image: ## build the container image (IMAGE=name, IMAGE_FLAGS for the engine's build)
	@scripts/image.sh

.PHONY: image-test
image-test: setup image-lint ## build the image and run it for real beside Triton, locked down (KEEP=1 keeps what it found)
	@scripts/image.sh --test

.PHONY: image-lint
image-lint: ## check how the Dockerfiles are written
	@scripts/image.sh --lint

.PHONY: protos
protos: setup ## generate the contract's Python code anew
	@scripts/protos.sh

.PHONY: lock
lock: setup ## resolve requirements/*.in anew into the lock files
	@scripts/lock.sh

.PHONY: clean
clean: ## remove what the verbs made
	rm -rf .venv .venv-models .venv-simd .venv-peers .venv-chart .venv-checkov .venv-image scripts/chart_schemas/node_modules .triton .cache .mypy_cache .ruff_cache .import_linter_cache
