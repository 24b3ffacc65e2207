# Needs python 3.11 or newer with venv. Everything goes into VENV; nothing outside it changes.
#
#   make demo          install, then run the whole chain on real text: demo-out/report.html (made anew)
#   make test          install with the developers' tools, then run the whole test suite
#   make quick         the tests that take seconds
#   make lint          ruff, its formatter and mypy
#   make docs          regenerate docs/cli.md and build the site into site/
#
# VENV=DIR picks the virtual environment, ARGS='...' is passed on to pytest or the demo.

VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

# One process a core with one thread each: tiny models spend two threads' time waiting for each other.
# A file stays in one process, so that what its tests share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# The first python that really runs and is new enough; a pyenv shim may exist and not run.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

# An advertisement that --quiet does not silence.
export NO_MKDOCS_2_WARNING = 1

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint docs check-docs check-recipes clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.installed-onnx
	$(BIN)/edgetiny demo --overwrite $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate_cli.py
	$(BIN)/mkdocs build --strict --quiet

check-docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate_cli.py --check
	$(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site

check-recipes: $(VENV)/.installed-dev
	$(BIN)/python export/check_recipes.py

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache

# A stamp per set of extras, so that a second `make` goes straight to work. Nothing is compiled ahead:
# torch alone has thousands of modules that are never imported.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "edgetiny needs python 3.11 or newer; none was found" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
