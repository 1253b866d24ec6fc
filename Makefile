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
GC_IMAGE ?= mediar-grand-challenge:latest
VERSION = $(shell sed -n 's/^__version__.*"\(.*\)"/\1/p' mediar_infer/_version.py)
LABELS = --label org.opencontainers.image.version=$(VERSION) \
    --label org.opencontainers.image.revision=$(shell git describe --always --dirty 2>/dev/null)
ARCHIVE = dist/$(subst /,-,$(subst :latest,,$(IMAGE))).tar
GC_ARCHIVE = dist/$(subst /,-,$(subst :latest,,$(GC_IMAGE))).tar

.PHONY: help demo test lint image image-check submission gc-image gc-test gc-save clean

help:
	@echo "make demo         segment a few real and generated images into demo/"
	@echo "make test         run all tests"
	@echo "make lint         check style, types and the import contract"
	@echo "make image        build the image $(IMAGE)"
	@echo "make image-check  run it as the challenge does on $(CHECK_INPUT), and by every other form"
	@echo "make submission   write it to $(ARCHIVE).gz with its checksum"
	@echo "make gc-image     build the image for grand-challenge.org, $(GC_IMAGE)"
	@echo "make gc-test      run it as the platform does"
	@echo "make gc-save      write it and its weights to $(GC_ARCHIVE).gz and dist/model.tar.gz"
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

gc-image:
	$(DOCKER) build --platform linux/amd64 --target grand-challenge --tag $(GC_IMAGE) $(LABELS) \
	    $(BUILD_OPTIONS) .

gc-test: gc-image
	bash .ci/gc-test "$(DOCKER)" $(GC_IMAGE)

# The platform wants code and weights apart; weights lie at the root of their archive.
gc-save: gc-image
	mkdir -p dist
	$(DOCKER) tag $(GC_IMAGE) docker.io/library/$(GC_IMAGE)
	rm -f $(GC_ARCHIVE) $(GC_ARCHIVE).gz
	$(DOCKER) save --output $(GC_ARCHIVE) docker.io/library/$(GC_IMAGE)
	gzip -1 $(GC_ARCHIVE)
	tar --create --gzip --file dist/model.tar.gz --owner=0 --group=0 --directory weights \
	    $(notdir $(wildcard weights/*))
	cd dist && for file in $(notdir $(GC_ARCHIVE)).gz model.tar.gz; do \
	    sha256sum $$file > $$file.sha256; cat $$file.sha256; done

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
