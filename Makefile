# Run `make` for the list.

PYTHON ?= python3
VENV := .venv
COMPILED := build/compiled
ARGS ?=
# One more than there are cores: many tests wait.
WORKERS := $(shell expr $$(nproc) + 1)

.PHONY: help run test lint types check soak fuzz restarts acme bench wheel compiled test-compiled

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1  /p' Makefile

run: $(VENV)/installed ## Start the relay; ARGS="--listen :8080" passes flags
	exec $(VENV)/bin/relayd $(ARGS)

test: $(VENV)/installed ## Run the tests that every change must pass
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

lint: $(VENV)/installed ## Check style and formatting
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/installed ## Check types
	$(VENV)/bin/mypy

check: lint types test ## All of CI

soak: $(VENV)/installed ## Five minutes of random traffic and kills; ARGS="--minutes 1" shortens it
	$(VENV)/bin/python -m tests.soak $(ARGS)

fuzz: $(VENV)/installed ## Ten minutes of hostile bytes for each reader of them; ARGS="--minutes 1 head" narrows it
	$(VENV)/bin/pip install --quiet --group fuzz
	$(VENV)/bin/python -m tests.fuzz $(ARGS)

restarts: $(VENV)/installed ## Restart under 2,000 phones: how long until all are back; wants Go
	$(VENV)/bin/python -m tests.restarts $(ARGS)

acme: $(VENV)/installed ## Every fault between a relay and its CA; wants pebble
	$(VENV)/bin/python -m pytest tests/acme/faults.py $(ARGS)

bench: compiled ## Compare with other relays and write docs/performance.md; takes minutes
	$(VENV)/bin/python -m tests.benchmarks $(ARGS)

wheel: $(VENV)/installed ## Build the wheel into dist/
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .

# In a copy: compiled modules beside the sources would be imported instead of them, however old they are.
compiled: $(VENV)/installed ## Build a wheel whose innermost rooms are compiled into dist/; wants a C compiler
	rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	cp -r relayd tests docs pyproject.toml README.md CHANGELOG.md LICENSE $(COMPILED)
	HATCH_BUILD_HOOKS_ENABLE=1 $(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist ./$(COMPILED)

test-compiled: compiled ## Run the tests on compiled rooms
	cd $(COMPILED) && $(CURDIR)/$(VENV)/bin/python -c 'import relayd.wire.frames as f; assert f.__file__.endswith(".so")'
	cd $(COMPILED) && $(CURDIR)/$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[acme]' --group dev
	touch $@
