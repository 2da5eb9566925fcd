# Run `make` for the list.

PYTHON ?= python3
VENV := .venv
ARGS ?=

.PHONY: help run test lint types check soak bench wheel

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1  /p' Makefile

run: $(VENV)/installed ## Start the relay; ARGS="--listen :8080" passes flags
	exec $(VENV)/bin/relayd $(ARGS)

test: $(VENV)/installed ## Run the tests that every change must pass
	$(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

lint: $(VENV)/installed ## Check style and formatting
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/installed ## Check types
	$(VENV)/bin/mypy

check: lint types test ## All of CI

soak: $(VENV)/installed ## Five minutes of random traffic and kills; ARGS="--minutes 1" shortens it
	$(VENV)/bin/python -m tests.soak $(ARGS)

bench: $(VENV)/installed ## Compare with other relays and write docs/performance.md; takes minutes
	$(VENV)/bin/python -m tests.benchmarks $(ARGS)

wheel: $(VENV)/installed ## Build the wheel into dist/
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable . --group dev
	touch $@
