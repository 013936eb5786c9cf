# SPDX-License-Identifier: GPL-2.0-only
# Every target sets up what it needs: `make stress` and `make test` are all that
# a fresh machine has to be told.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
PYTHON := $(VENV)/bin/python
WORKERS ?= 2

.PHONY: all setup test test-fast lint fmt stress bench bench-sweep elsewhere doctor clean

all: test

# What is installed is checked each time, and costs nothing when it is all there.
setup: $(VENV)/.ready
	@tools/install-packages --check || tools/install-packages

$(VENV)/.ready: pyproject.toml tools/install-packages
	tools/install-packages
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --editable '.[dev]'
	touch $@

# Lint and tests without a guest first: they take seconds.
test: setup lint
	$(PYTHON) -m pytest -q -m "not vm" -n $(WORKERS)
	$(VENV)/bin/harness setup
	$(PYTHON) -m pytest -m vm -n $(WORKERS)

test-fast: setup lint
	$(PYTHON) -m pytest -q -m "not vm" -n $(WORKERS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	shellcheck tools/install-packages .ci/run images/initramfs/init images/initramfs/serve

fmt: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

stress: setup
	$(VENV)/bin/harness stress

bench: setup
	$(PYTHON) tools/bench.py

# Hours: ten searches each of three kinds for every racy variant.
bench-sweep: setup
	$(PYTHON) tools/sweep_bench.py

# Builds a kernel in an empty cache: the same bundle, the same bytes.
elsewhere: setup
	$(PYTHON) tools/elsewhere.py

doctor: setup
	$(VENV)/bin/harness doctor

# The cache of kernels and templates stays; `harness doctor` says where it is.
clean:
	rm -rf $(VENV) build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
