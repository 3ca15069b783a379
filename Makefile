# Everything runs from .venv in this folder, which each target makes or brings up to date by itself.
#   make test PYTEST_ARGS="-k ledger"       a part of the tests
#   make demo DEMO_ARGS="--seed 1 --folder runs/demo-1"
#   make setup PYTHON=/path/to/python3.12   another Python
PYTHON ?= $(shell python3.11 -c '' >/dev/null 2>&1 && echo python3.11 || echo python3)
PYTEST_ARGS ?=
DEMO_ARGS ?=
RUN := .venv/bin/python
STAMP := .venv/.installed
VERSION_OK := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-unit test-oldest lint format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## install the package and its tools into .venv (the first time: some minutes, 6 GB)

demo: $(STAMP)  ## generate images, train, calibrate, label at three budgets, print the table
	$(RUN) -m jobs.demo $(DEMO_ARGS)

test: $(STAMP)  ## every tier of the tests that this machine can run
	$(RUN) -m pytest $(PYTEST_ARGS)

test-unit: $(STAMP)  ## the tests that need neither Ray nor a server, under two minutes
	$(RUN) -m pytest tests/unit -m "not ray and not s3" $(PYTEST_ARGS)

test-oldest: .venv-oldest/.installed  ## every tier with the lowest versions that pyproject.toml names (another 6 GB)
	.venv-oldest/bin/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## what CI and pre-commit check, changing nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)  ## rewrite the code to the house format and mend what can be mended
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:  ## remove the environment and every cache; data and run folders stay
	rm -rf .venv .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than pyproject.toml, or absent: install. A .venv that an interrupted run left half made is made anew.
$(STAMP): pyproject.toml
	@$(PYTHON) -c '$(VERSION_OK)' 2>/dev/null || { \
	  echo "anchornet needs Python 3.11 or newer, and '$(PYTHON)' is not; say which: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(RUN) -c 'import pip; $(VERSION_OK)' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv ..."
	@$(RUN) -m pip install --no-input --quiet --editable '.[dev]'
	@touch $@

# The stamp names what was installed; the pins follow from pyproject.toml and nothing else.
.venv-oldest/.installed: pyproject.toml tests/oldest.py
	@$(PYTHON) -c '$(VERSION_OK)' || { echo "say which Python 3.11 or newer: make test-oldest PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv-oldest
	$(PYTHON) tests/oldest.py pyproject.toml > .venv-oldest/oldest.txt
	@echo "installing the lowest versions into .venv-oldest ..."
	@.venv-oldest/bin/python -m pip install --no-input --quiet --requirement .venv-oldest/oldest.txt
	@touch $@
