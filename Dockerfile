# Targets: the default one (folders, the challenge), and grand-challenge for grand-challenge.org.
# Build arguments:
#   BASE_IMAGE   another base with Python 3.11 or newer
#   WEIGHTS      the folder weights, or one inside it such as weights/published
#   OPTIONS      options of predict for every run, such as --fit-budget
#   PIP_OPTIONS  options of pip, such as --extra-index-url ADDRESS of PyTorch's builds for CPUs
#   EXTRAS       optional parts of the package: gpu (torch), or nothing for CPUs only
#   TORCH        another version of torch, such as torch==2.12.0
ARG BASE_IMAGE=python:3.11-slim

# The packages that inference needs, and their pinned versions.
FROM ${BASE_IMAGE} AS requirements
ARG EXTRAS=gpu
ARG TORCH=
WORKDIR /build
COPY pyproject.toml requirements.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(d for e in '${EXTRAS}'.split() for d in p['optional-dependencies'][e]), sep='\n')" \
        > inference.txt \
    && sed "s/^torch==.*/${TORCH:-&}/" requirements.txt > pinned.txt \
    && grep ^cyclonedx-bom== requirements.txt > bill.txt

# The compiled loops of labels and exports; the compiler stays behind in this stage.
FROM ${BASE_IMAGE} AS kernels
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml ./
COPY mediar_infer/_version.py mediar_infer/
COPY mediar_infer/labels/kernels/label_kernels.c mediar_infer/labels/kernels/
COPY mediar_infer/labels/kernels/holes.c mediar_infer/labels/kernels/
COPY mediar_infer/exports/cell_kernels.c mediar_infer/exports/
# Empty stand-ins: pyproject.toml names these files, whose changes need no compiler.
RUN touch LICENSE README.md mediar_infer/__init__.py \
    && python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --editable . \
    && mkdir /compiled \
    && cp --parents mediar_infer/labels/kernels/*.so mediar_infer/exports/*.so /compiled

# What lists the packages of the container image; it stays behind in this stage.
FROM ${BASE_IMAGE} AS bill-tools
ARG PIP_OPTIONS=
COPY --from=requirements /build/bill.txt /requirements/
RUN python -m venv /bill-tools \
    && /bill-tools/bin/python -m pip install --no-cache-dir --disable-pip-version-check ${PIP_OPTIONS} \
        --requirement /requirements/bill.txt

# From what changes rarely to what changes often: rebuilding after a change takes seconds.
FROM ${BASE_IMAGE} AS inference
LABEL org.opencontainers.image.title="mediar_infer" \
      org.opencontainers.image.description="MEDIAR cell segmentation: a folder of images in, instance labels out" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /workspace
ARG PIP_OPTIONS=
COPY --from=requirements /build/inference.txt /build/pinned.txt /requirements/
COPY mediar_infer/container/package_trimming.py /requirements/
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore ${PIP_OPTIONS} \
        --requirement /requirements/inference.txt --constraint /requirements/pinned.txt \
    # 0.6 GB to compile kernels at run time, which nothing here uses
    && python -m pip uninstall --yes triton \
    && python /requirements/package_trimming.py
# Found from any folder, and by an isolated Python, which ignores the environment.
RUN python -c "import site; print('/workspace', file=open(site.getsitepackages()[0] + '/mediar_infer.pth', 'w'))"
# HOME is writable for any user, and packages in a mounted home folder are ignored. No ledger, as it
# would lie among the results.
ENV HOME=/tmp \
    MEDIAR_LEDGER=none \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONNOUSERSITE=1
ARG WEIGHTS=weights
COPY ${WEIGHTS} weights
COPY LICENSE predict.py predict.sh ./
COPY mediar_infer mediar_infer
COPY --from=kernels /compiled ./
# Compiled here, because every image is segmented by a fresh container.
RUN python -m compileall -q mediar_infer \
    && python -I mediar_infer/container/third_party.py > THIRD_PARTY_NOTICES.txt \
    && python -I mediar_infer/container/image_check.py

FROM inference AS bill
COPY --from=bill-tools /bill-tools /bill-tools
RUN /bill-tools/bin/cyclonedx-py environment --output-reproducible --no-validate --output-file /packages.json \
        "$(command -v python)" \
    && python -I mediar_infer/container/bill_of_materials.py /packages.json weights > /bill.cdx.json \
    && /bill-tools/bin/python -c "import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import JsonStrictValidator; sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open('/bill.cdx.json').read()))"

FROM inference AS complete
COPY --from=bill /bill.cdx.json ./

# The platform requires a user other than root and allows 128 threads; a pool per core would exceed them.
FROM complete AS grand-challenge
ENV OMP_NUM_THREADS=16 OPENBLAS_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=4 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=4
USER 1000:1000
ENTRYPOINT ["python", "-I", "-m", "mediar_infer", "grand-challenge"]

FROM complete
ARG OPTIONS=
# Options that predict does not know fail the build. podman 4 loses the value of an argument between
# ARG and ENV once its layers are cached, unless a step in between depends on it.
RUN python -I -c "from mediar_infer.cli import build_parser; import sys; build_parser('predict').parse_args(sys.argv[1:])" \
        predict ${OPTIONS}
ENV MEDIAR_OPTIONS=${OPTIONS}
ENTRYPOINT ["sh", "/workspace/mediar_infer/container/entry.sh"]
