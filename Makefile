# Targets that need Python set up .venv first if need be; see README.md.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# make DOCKER=podman … takes another engine.
DOCKER ?= docker
IMAGE ?= mediar:latest
# For instance BUILD_OPTIONS="--build-arg WEIGHTS=weights/mine".
BUILD_OPTIONS ?=
CHECK_INPUT ?= demo/images
VERSION = $(shell sed -n 's/^__version__.*"\(.*\)"/\1/p' mediar_infer/_version.py)
LABELS = --label org.opencontainers.image.version=$(VERSION) \
    --label org.opencontainers.image.revision=$(shell git describe --always --dirty 2>/dev/null)
ARCHIVE = dist/$(subst /,-,$(subst :latest,,$(IMAGE))).tar

.PHONY: help demo test lint image image-check submission clean

help:
	@echo "make demo         segment a few real and generated images into demo/"
	@echo "make test         run all tests"
	@echo "make lint         check style, types and the import contract"
	@echo "make image        build the image $(IMAGE)"
	@echo "make image-check  run it as the challenge does on $(CHECK_INPUT), and by every other form"
	@echo "make submission   write it to $(ARCHIVE).gz with its checksum"
	@echo "make clean        remove $(VENV), demo/ and dist/"

demo: $(VENV)/.ready
	$(PY) -m mediar_infer demo --output demo

test: $(VENV)/.ready
	$(PY) -m pytest

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

image:
	$(DOCKER) build --platform linux/amd64 --tag $(IMAGE) $(LABELS) $(BUILD_OPTIONS) .

image-check: $(VENV)/.ready image
	test -e $(CHECK_INPUT) || $(MAKE) demo
	$(PY) -m mediar_infer challenge --engine $(DOCKER) --image $(IMAGE) -i $(CHECK_INPUT) \
	    -o dist/image-check
	MEDIAR_ENGINE=$(DOCKER) MEDIAR_IMAGE=$(IMAGE) $(PY) -m pytest tests/container

# The name with its registry, which podman would leave out: docker load then tags it $(IMAGE).
submission: image
	mkdir -p dist
	$(DOCKER) tag $(IMAGE) docker.io/library/$(IMAGE)
	rm -f $(ARCHIVE) $(ARCHIVE).gz
	$(DOCKER) save --output $(ARCHIVE) docker.io/library/$(IMAGE)
	gzip -1 $(ARCHIVE)
	cd dist && sha256sum $(notdir $(ARCHIVE)).gz > $(notdir $(ARCHIVE)).gz.sha256
	@ls -lh $(ARCHIVE).gz
	@cat $(ARCHIVE).gz.sha256

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
	rm -rf $(VENV) demo dist
