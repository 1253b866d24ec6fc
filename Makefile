# make demo, make test and make lint each set up .venv first if need be; see README.md.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

DOCKER ?= docker
GC_IMAGE ?= mediar-grand-challenge:latest

.PHONY: help demo test lint clean gc-image gc-test gc-save

help:
	@echo "make demo   segment a few real and generated images into demo/"
	@echo "make test   run all tests"
	@echo "make lint   check style, types and the import contract"
	@echo "make gc-image, gc-test, gc-save   build, try and pack the image for grand-challenge.org"
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

# DOCKER_BUILD_OPTIONS may hold --build-arg BASE_IMAGE=... and the like; DOCKER=podman works too.
gc-image:
	$(DOCKER) build --platform linux/amd64 --target grand-challenge --tag $(GC_IMAGE) \
	    $(DOCKER_BUILD_OPTIONS) .

gc-test: gc-image
	bash .ci/gc-test "$(DOCKER)" $(GC_IMAGE)

# Two archives, as the platform wants code and weights apart; weights lie at the root of theirs.
gc-save: SHELL := /bin/bash
gc-save: .SHELLFLAGS := -o pipefail -c
gc-save: gc-image
	$(DOCKER) save $(GC_IMAGE) | gzip --fast > mediar-grand-challenge.tar.gz
	tar --create --gzip --file model.tar.gz --owner=0 --group=0 --directory weights $(notdir $(wildcard weights/*))
	sha256sum mediar-grand-challenge.tar.gz model.tar.gz | tee mediar-grand-challenge.sha256

clean:
	rm -rf $(VENV) demo
