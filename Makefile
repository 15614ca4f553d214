# Two commands for newcomers: `make quickstart` and `make test`. Both build .venv from the project's own files first.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# Where this is set, nothing that Python compiles is kept, and each of the processes below would compile it again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: quickstart test check format docs clean

quickstart: $(VENV)/installed
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml recipes/quickstart.yaml

# Both halves of the first line keep one core busy.
test: $(VENV)/installed-dev
	$(MAKE) -j2 check $(VENV)/compiled
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# --no-compile: Python compiles what it imports, a small part of what is installed.
$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c $(CONSTRAINTS) -e ".[dev]"
	touch $@ $(VENV)/installed

# Once, not by each worker of the tests: the tests, and what they import.
$(VENV)/compiled: $(VENV)/installed-dev
	$(BIN)/python -m pytest --collect-only -q > /dev/null
	touch $@

clean:
	rm -rf $(VENV) outputs site
