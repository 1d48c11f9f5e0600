# One command for each task. `make demo` and `make test` set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=
JOBS ?= 2

.PHONY: help setup demo benchmark test lint format clean

.DEFAULT_GOAL := help

help:  ## prints these tasks
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12 | sed 's/^/make /'

setup: $(VENV)/.installed  ## a virtual environment in .venv; all that follow do it first

$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV), once: Python packages, 0.6 GB to download (3 GB with torch for CUDA)."
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null; then \
	  cpu=$$($(PIP) index versions torch 2>/dev/null | grep -o '[0-9.]*+cpu' | head -n 1); \
	  if [ -n "$$cpu" ]; then echo "No GPU here: torch $$cpu."; $(PIP) install "torch==$$cpu"; \
	  else echo "No GPU here, but the package index has no torch for CPUs: 3 GB with CUDA."; fi; fi
	$(PIP) install --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed  ## a prompt becomes a turning creature; ARGS='--prompt "a blue cat wearing a red hat"'
	$(BIN)/jointdreamer demo $(ARGS)

benchmark: $(VENV)/.installed  ## Janus rates and text congruence of all methods; CPU: ARGS=--quick
	$(BIN)/python benchmarks/benchmark.py $(ARGS)

test: $(VENV)/.installed  ## the whole test suite, on CPU, JOBS files at a time
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.installed  ## ruff, as CI runs it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed  ## lets ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## removes the virtual environment and every output
	rm -rf $(VENV) outputs build *.egg-info
