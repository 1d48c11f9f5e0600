# One command for each task. `make demo` and `make test` set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 2

.PHONY: demo benchmark test lint format clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed  ## a prompt becomes a turning creature; ARGS='--prompt "a blue cat wearing a red hat"'
	$(BIN)/jointdreamer demo $(ARGS)

benchmark: $(VENV)/.installed  ## Janus rates and text congruence of all methods; CPU: ARGS=--quick
	$(BIN)/python benchmarks/benchmark.py $(ARGS)

test: $(VENV)/.installed  ## the whole test suite, on CPU, JOBS files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.installed  ## ruff, as CI runs it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed  ## lets ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## removes the virtual environment and every output
	rm -rf $(VENV) outputs build *.egg-info
