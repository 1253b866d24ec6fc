ARG BASE_IMAGE=python:3.11-slim

# The compiled loops of the label stage; the compiler stays behind in this stage.
FROM ${BASE_IMAGE} AS kernels
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /build
COPY LICENSE README.md pyproject.toml ./
COPY mediar_infer/__init__.py mediar_infer/_version.py mediar_infer/
COPY mediar_infer/kernels mediar_infer/kernels
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --editable . \
    && ls mediar_infer/kernels/*.so

FROM ${BASE_IMAGE} AS engine

LABEL org.opencontainers.image.title="mediar_infer" \
      org.opencontainers.image.description="MEDIAR cell segmentation: a folder of images in, instance labels out" \
      org.opencontainers.image.licenses="MIT"

WORKDIR /workspace

# The dependencies of inference at the pinned versions, in a layer that changes of code leave alone:
# the package is installed as a link to this folder, which gets the rest of its code below.
COPY LICENSE README.md pyproject.toml requirements.txt ./
COPY mediar_infer/__init__.py mediar_infer/_version.py mediar_infer/
COPY mediar_infer/kernels/label_kernels.c mediar_infer/kernels/
RUN python -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint requirements.txt --editable .

COPY weights weights
COPY predict.py predict.sh ./
COPY mediar_infer mediar_infer
COPY --from=kernels /build/mediar_infer/kernels/*.so mediar_infer/kernels/
# Compiled here, as each image is segmented by a fresh container.
RUN python -m compileall -q mediar_infer

# Options go to predict.py; anything else is a command of its own, such as the challenge's
# /bin/bash -c "sh predict.sh".
ENTRYPOINT ["/bin/sh", "-c", "case \"${1-}\" in ''|-*) exec python /workspace/predict.py \"$@\" ;; *) exec \"$@\" ;; esac", "mediar_infer"]

# For grand-challenge.org: docker build --platform linux/amd64 --target grand-challenge. It wants a user other than
# root, lets only /output and /tmp be written, and allows 128 threads, which a pool per core would pass.
FROM engine AS grand-challenge
ENV HOME=/tmp OMP_NUM_THREADS=16 OPENBLAS_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=4 \
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=4
USER 1000:1000
ENTRYPOINT ["python", "-m", "mediar_infer", "grand-challenge"]

# The default target.
FROM engine
