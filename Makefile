# make demo, make test and make lint each set up .venv first if need be; see README.md.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: help demo test lint clean

help:
	@echo "make demo   segment a few real and generated images into demo/"
	@echo "make test   run all tests"
	@echo "make lint   check style, types and the import contract"
	@echo "make clean  remove $(VENV) and demo/"

demo: $(VENV)/.ready
	$(PY) -m mediar_infer demo --output demo

test: $(VENV)/.ready
	$(PY) -m pytest

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Written last, so that a set-up that was stopped is taken up again.
$(VENV)/.ready: requirements.txt pyproject.toml mediar_infer/kernels/label_kernels.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    found=$$($(PYTHON) --version 2>/dev/null || echo no Python); \
	    echo "$(PYTHON): found $$found, expected Python 3.11 or newer;" \
	        "install it and name it: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --requirement requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

clean:
	rm -rf $(VENV) demo
