# Targets that need Python set up .venv first if necessary; see README.md.

PYTHON ?= python3
VENV := .venv
DOCS_VENV := .venv-docs
PLATFORM_VENV := .venv-platform
CONSUMERS_VENV := .venv-consumers
HOSTS_VENV := .venv-hosts
PY := $(VENV)/bin/python

# make DOCKER=podman … uses another engine.
DOCKER ?= docker
IMAGE ?= mediar:latest
# The folder weights, or one inside it.
WEIGHTS ?= weights
# Of predict for every run of the image, such as --fit-budget.
OPTIONS ?=
# Further options of the build, such as BUILD_OPTIONS="--build-arg TORCH=torch==2.12.0".
BUILD_OPTIONS ?=
CHECK_INPUT ?= demo/images
# make fuzz FUZZ_SEED=7 … reads other files.
FUZZ_COUNT ?= 10000
FUZZ_SEED ?= 1
GC_IMAGE ?= mediar-grand-challenge:latest
VERSION = $(shell sed -n 's/^__version__.*"\(.*\)"/\1/p' mediar_infer/_version.py)
LABELS = --label org.opencontainers.image.version=$(VERSION) \
    --label org.opencontainers.image.revision=$(shell git describe --always --dirty 2>/dev/null)
ARCHIVE = $(subst :,-,$(subst /,-,$(subst :latest,,$(IMAGE))))
GC_ARCHIVE = $(subst :,-,$(subst /,-,$(subst :latest,,$(GC_IMAGE))))

.PHONY: help demo smoke test consumers hosts bench gpu fuzz lint docs notebook image image-check submission gc-image gc-test gc-save clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## segment a few real and generated images into demo/
	$(PY) -m mediar_infer demo --output demo

smoke: $(VENV)/.ready ## run the quickest tests, in seconds
	$(PY) -m pytest tests/smoke

# More than two processes would need too much memory.
test: $(VENV)/.ready ## run all tests, on all cores
	$(PY) -m pytest --numprocesses auto --maxprocesses 2 --dist worksteal

consumers: $(VENV)/.ready ## check exports with the programs that read them
	$(PY) -m pytest tests/consumers

# Needs a display; xvfb-run gives one without a screen. Warnings of these programs are not errors.
hosts: $(HOSTS_VENV)/.ready ## test the plugin in napari, and the recipes in Sopa and LazySlide
	$(if $(DISPLAY),,xvfb-run --auto-servernum) $(HOSTS_VENV)/bin/python -m pytest -W default \
	    tests/consumers/test_napari.py tests/consumers/test_recipes.py

# Nothing else may run meanwhile. The label stage is compared with Cellpose, by bench_labels.py.
bench: $(VENV)/.ready ## measure the speed of this machine's CPU, half an hour or more
	$(PY) benchmarks/bench_cold_start.py --output benchmarks/results/cold_start.json
	$(PY) benchmarks/bench_process.py --output benchmarks/results/process.json
	$(PY) benchmarks/bench_network_cpu.py --precisions float32 bfloat16 int8 \
	    --output benchmarks/results/network_cpu.json
	$(PY) benchmarks/bench_folder.py --output benchmarks/results/folder.json
	$(PY) benchmarks/bench_dask.py --output benchmarks/results/dask.json

gpu: $(VENV)/.ready ## prove parity and speed on a GPU, in ten minutes
	$(PY) benchmarks/bench_gpu.py

fuzz: $(VENV)/.ready ## read thousands of damaged files of every kind
	$(PY) tests/fuzz/fuzz_run.py --count $(FUZZ_COUNT) --seed $(FUZZ_SEED) --folder dist/fuzz

lint: $(VENV)/.ready ## check style, types, import contract, spelling and packaging
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell
	$(VENV)/bin/validate-pyproject pyproject.toml

# The variable silences the theme's announcement of its successor.
docs: $(DOCS_VENV)/.ready ## build the site into dist/docs/
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

notebook: $(DOCS_VENV)/.ready ## turn docs/notebooks/first_steps.py into dist/first_steps.ipynb
	mkdir -p dist
	$(DOCS_VENV)/bin/jupytext --to ipynb --output dist/first_steps.ipynb \
	    docs/notebooks/first_steps.py

image: ## build the container image (IMAGE=NAME)
	$(DOCKER) build --platform linux/amd64 --tag $(IMAGE) $(LABELS) \
	    --build-arg WEIGHTS=$(WEIGHTS) --build-arg OPTIONS="$(OPTIONS)" $(BUILD_OPTIONS) .

image-check: $(VENV)/.ready image ## evaluate it as the challenge does, and start it in every other form
	test -e $(CHECK_INPUT) || $(MAKE) demo
	rm -rf dist/image-check
	$(PY) -m mediar_infer challenge --engine $(DOCKER) --image $(IMAGE) -i $(CHECK_INPUT) \
	    -o dist/image-check
	MEDIAR_ENGINE=$(DOCKER) MEDIAR_IMAGE=$(IMAGE) MEDIAR_IMAGE_OPTIONS="$(OPTIONS)" \
	    $(PY) -m pytest tests/container

# What docker puts before a name: docker.io/library/ before team:latest, docker.io/ before
# me/team:latest, and nothing where a registry is named.
HOST = $(if $(findstring /,$(1)),$(firstword $(subst /, ,$(1))))
IS_REGISTRY = $(or $(findstring .,$(HOST)),$(findstring :,$(HOST)),$(filter localhost,$(HOST)))
REGISTRY = $(if $(HOST),$(if $(IS_REGISTRY),,docker.io/),docker.io/library/)

# $(call save,IMAGE,ARCHIVE): dist/ARCHIVE.tar.gz, its checksum and size. The name with its registry,
# which podman would take for localhost: docker load then tags it IMAGE.
define save
	mkdir -p dist
	$(DOCKER) tag $(1) $(call REGISTRY,$(1))$(1)
	rm -f dist/$(2).tar dist/$(2).tar.gz
	$(DOCKER) save --output dist/$(2).tar $(call REGISTRY,$(1))$(1)
	gzip -1 dist/$(2).tar
	cd dist && sha256sum $(2).tar.gz > $(2).tar.gz.sha256 && cat $(2).tar.gz.sha256
	@ls -lh dist/$(2).tar.gz
endef

submission: image ## write it to dist/ with its checksum
	$(call save,$(IMAGE),$(ARCHIVE))

gc-image: ## build the container image for grand-challenge.org (GC_IMAGE=NAME)
	$(DOCKER) build --platform linux/amd64 --target grand-challenge --tag $(GC_IMAGE) $(LABELS) \
	    --build-arg WEIGHTS=$(WEIGHTS) $(BUILD_OPTIONS) .

gc-test: gc-image $(PLATFORM_VENV)/.ready ## run it as the platform does, and by the platform's own tools
	bash .ci/gc-test "$(DOCKER)" $(GC_IMAGE) $(PLATFORM_VENV)/bin

# The platform takes code and weights separately, weights at the root of their archive.
gc-save: gc-image ## write it and its weights to dist/, as two archives
	$(call save,$(GC_IMAGE),$(GC_ARCHIVE))
	tar --create --gzip --file dist/model.tar.gz --owner=0 --group=0 --directory $(WEIGHTS) \
	    $(notdir $(wildcard $(WEIGHTS)/*))
	cd dist && sha256sum model.tar.gz > model.tar.gz.sha256 && cat model.tar.gz.sha256

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    found=$$($(PYTHON) --version 2>/dev/null || echo no Python); \
    echo "$(PYTHON): found $$found, expected Python 3.11 or newer;" \
        "install it and name it: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
    exit 1; }
endef

# Touched last, so an interrupted setup is repeated.
$(VENV)/.ready: requirements.txt pyproject.toml $(wildcard mediar_infer/*/*.c mediar_infer/*/*/*.c)
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --requirement requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

# Apart from the engine: writing pages needs neither torch nor a compiler.
$(DOCS_VENV)/.ready: requirements-docs.txt requirements.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --disable-pip-version-check --requirement $<
	@touch $@

# What grand-challenge.org itself runs; the file says why it is kept apart.
$(PLATFORM_VENV)/.ready: .ci/platform-requirements.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(PLATFORM_VENV)
	$(PLATFORM_VENV)/bin/python -m pip install --disable-pip-version-check --requirement $<
	@touch $@

# bioio and napari, which make consumers runs where they are installed.
$(CONSUMERS_VENV)/.ready: .ci/consumers-requirements.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(CONSUMERS_VENV)
	$(CONSUMERS_VENV)/bin/python -m pip install --disable-pip-version-check --requirement $<
	@touch $@

# The engine's packages come from $(VENV); those listed here come first.
$(HOSTS_VENV)/.ready: .ci/hosts-requirements.txt $(VENV)/.ready
	$(VENV)/bin/python -m venv $(HOSTS_VENV)
	cd $(HOSTS_VENV)/lib/python*/site-packages && \
	    echo $(abspath $(VENV))/lib/python*/site-packages > zz_engine.pth
	$(HOSTS_VENV)/bin/python -m pip install --disable-pip-version-check --requirement $<
	$(HOSTS_VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

clean: ## remove the environments, demo/ and dist/
	rm -rf $(VENV) $(DOCS_VENV) $(PLATFORM_VENV) $(CONSUMERS_VENV) $(HOSTS_VENV) demo dist
