# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer: they create .venv, install the
# pinned dependencies into it, and run.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-parity lint clean

# Large pages of memory, where the C library has them to give: a tenth off each step (docs/performance.md).
demo: .venv/installed
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m mfg_jax.main --config=configs/synthetic.py

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not torch"

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not torch"

# Against PyTorch, which only this target installs (a large download).
test-parity: .venv/installed-parity
	$(BIN)/python -m pytest -n 2 -m torch

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; $(PYTHON) is older or missing. Name another: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "error: $(PYTHON) cannot create a virtual environment. On Debian: apt install python3-venv" >&2; exit 1; }

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/installed-parity: requirements-parity.txt requirements-onnx.txt .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-onnx.txt
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
