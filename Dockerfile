# The command line and the studio in a container; for a CPU as it stands:
#   docker build -t purrception .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" purrception train digits
# With CUDA, take an image that already holds such a PyTorch, or name the index of wheels that
# https://pytorch.org/get-started/locally shows for your system:
#   docker build --build-arg BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime -t purrception .
#   docker build --build-arg TORCH_INDEX_URL=... -t purrception .
# then add: docker run --gpus all --ipc=host ...
# The studio listens in the container only; publish it to this machine with
#   docker run --rm -p 127.0.0.1:7860:7860 ... studio runs/digits --host 0.0.0.0
# docs/reference/security.md says what it then asks for.
ARG BASE=python:3.12-slim
FROM ${BASE}

ARG TORCH_INDEX_URL=""
ARG EXTRAS=train,evaluate,studio
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/purrception

# PyTorch first, in a layer of its own; an image that brings one keeps it.
COPY constraints.txt ./
RUN python -c "import torch" 2>/dev/null \
    || pip install -c constraints.txt ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} torch
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src src
# Whichever PyTorch is there stays: a constraint on another would replace it.
RUN grep -v '^torch==' constraints.txt > others.txt && pip install -c others.txt ".[${EXTRAS}]"

# Files belong to whoever --user names; without it, to nobody in particular, and never to root.
ENV HOME=/tmp
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["purrception"]
CMD ["--help"]
