# Every target sets up what it needs by itself; a second call of any of them only does its own work.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
CARGO ?= cargo
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 30
PYTEST_ARGS ?=
PEERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pyvirtio/peers
# --precedence: short runs in bench that no other thread disturbs, for root on a machine with other work.
PRECEDENCE ?=

# One interpreter for maturin, clippy and the tests, so that PyO3's build script is not run again between them.
export PYO3_PYTHON := $(abspath $(BIN)/python)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
# The bindings link against no libpython (an extension module resolves Python at load time), so they have no
# test binary; tests/ covers them from Python.
RUST_TESTS := --workspace --exclude pyvirtio-native

.PHONY: help
help:
	@echo 'make demo      boot a real Linux guest on devices served from Python, and verify a disk'
	@echo 'make test      lint, Rust tests, Python tests, real guests'
	@echo 'make test-all  the same, with the slow tests and $(FUZZ_SECONDS) s of every fuzz target'
	@echo 'make bench     nanoseconds per chain, beside the kernel and rust-vmm'
	@echo 'make mutants   put bugs into the rings and see that the tests notice'
	@echo 'make lint      ruff, mypy, import-linter, rustfmt, clippy'
	@echo 'make docs      HTML documentation in docs/_build'
	@echo 'make fio       build fio with libblkio, a driver beside ours in make bench, 7 MB'
	@echo 'make peers     get newer QEMU, DPDK, User Mode Linux and virtiofsd for the tests, 800 MB'

# -- set-up ------------------------------------------------------------------------------------------------

.PHONY: debian
debian:
	@tools/setup-debian

$(VENV)/.dev: pyproject.toml | debian
	@echo 'setting up $(VENV)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@$(BIN)/pip install --quiet --group docs
	@touch $@

$(VENV)/.native: $(VENV)/.dev $(RUST_SOURCES) pyproject.toml | debian
	@echo 'building virtio._native'
	@VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 $(BIN)/maturin develop --quiet --release >$(VENV)/build.log 2>&1 || \
		{ cat $(VENV)/build.log >&2; exit 1; }
	@touch $@

.PHONY: setup
setup: debian $(VENV)/.native

# Newer QEMU, virtiofsd, DPDK and User Mode Linux for the tests, in the user's cache.
.PHONY: peers
peers: debian
	@tools/fetch-peers

# QEMU 11 alone: no stable distribution has one yet that speaks vfio-user.
.PHONY: qemu
qemu: debian
	@tools/fetch-peers --qemu || echo 'tests over vfio-user are skipped' >&2

# fio that drives vhost-user block devices, which Debian's cannot, for 'make bench'; in the user's cache.
.PHONY: fio
fio:
	@tools/build-fio-libblkio

# -- what one calls ----------------------------------------------------------------------------------------

.PHONY: demo
demo: setup
	@$(BIN)/virtio demo

.PHONY: lint
lint: setup
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings

.PHONY: rust-test
rust-test: setup
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --cargo-quiet --no-fail-fast --status-level fail $(RUST_TESTS); \
	else \
		$(CARGO) test --quiet $(RUST_TESTS); \
	fi

# The Python tests come last, so that their closing line does too.
.PHONY: test
test: lint rust-test qemu
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

# Real peers twice: those of this system, and the newer ones where 'make peers' has got them.
.PHONY: test-all
test-all: lint rust-test qemu
	$(CARGO) test --quiet --doc $(RUST_TESTS)
	tools/fuzz --seconds $(FUZZ_SECONDS)
	if test -e $(PEERS)/complete; then \
		PATH=$(PEERS)/bin:$$PATH $(BIN)/python -m pytest -m 'not slow' tests/interop; \
	fi
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: mutants
mutants:
	@$(PYTHON) tools/mutants.py

.PHONY: bench
bench: setup
	$(BIN)/virtio bench queue
	$(BIN)/virtio bench ring $(PRECEDENCE)
	$(BIN)/virtio bench block $(PRECEDENCE)
	$(BIN)/virtio bench iotlb $(PRECEDENCE)
	$(BIN)/virtio bench net $(PRECEDENCE)
	$(BIN)/python benches/ringtest.py $(PRECEDENCE)
	$(CARGO) run --quiet --release --manifest-path benches/rust-vmm/Cargo.toml --target-dir target/rust-vmm -- $(PRECEDENCE)

.PHONY: docs
docs: setup $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'
