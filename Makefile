# `make` lists the recipes. Everything lives in .venv; nothing is installed anywhere else.
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs lock clean

PYTHON ?= python3
# Each runs whole files of tests on a PostgreSQL of its own; much of the time is waiting.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help: ## list the recipes
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from the hash-locked requirements

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(None if v >= (3, 11) else f"ragline needs Python 3.11 or newer, and this is {v[0]}.{v[1]}; set PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## the main job on real input: ingest, ask, measure
	$(BIN)/ragline model fetch
	$(BIN)/ragline migrate apply
	$(BIN)/python examples/demo/run.py

lint: $(READY) ## ruff, mypy --strict, the import contract, no way around the resolver
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/ragline dsn audit --quiet --fail-on any src tests bench examples docs

test: $(READY) ## every test, on a real PostgreSQL
	$(BIN)/ragline model fetch --quiet
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Four of them share a corpus; the one that changes documents comes last.
bench: $(READY) ## speed and quality, as interleaved ratios against hand-written baselines
	$(BIN)/ragline model fetch --quiet
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; broken=; \
	for one in vector_search lexical "hybrid --data $$folder" "filters --data $$folder" \
	  "doctor --data $$folder" \
	  "writers --data $$folder" ingest squad cranfield int8 judges gate evaluation index_tune undo migration; do \
	  set -- $$one; name=$$1; shift; \
	  echo; echo "bench/$$name.py"; \
	  $(BIN)/python bench/$$name.py "$$@" || broken="$$broken $$name"; \
	done; \
	if [ -n "$$broken" ]; then echo; echo "broken or not run:$$broken"; exit 1; fi

docs: $(READY) ## write the generated pages of docs/reference
	$(BIN)/python docs/build.py

lock: ## write requirements/dev.txt again (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --all-extras --group dev --custom-compile-command "make lock" pyproject.toml -o requirements/dev.txt

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
