# Two images of one kind: `docker build --target cpu -t qwen-ner:cpu .`, and `--target cuda`.
#
# Build arguments, all optional:
#   PYTHON                  the base image
#   EXTRAS                  extras of pyproject.toml, with commas between them
#   PIP_INDEX_URL           a mirror of the Python packages
#   PIP_EXTRA_INDEX_URL     for cpu, PyTorch's index of CPU wheels; without it the image holds the CUDA libraries too
#
#   docker run -p 8000:8000 -v ./outputs/quickstart:/model:ro qwen-ner:cpu
#   docker run --gpus all -v .:/work -v qwen-ner:/home/ner/.cache --user $(id -u) qwen-ner:cuda train recipes/lora.yaml

ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/pip PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /src
COPY constraints.txt .

# PyTorch first, in a layer of its own: a change of the package does not install it again.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS=serve,tracking
RUN --mount=type=cache,target=/pip pip install -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY accelerate_configs accelerate_configs
COPY qwen_ner qwen_ner
RUN --mount=type=cache,target=/pip pip install -c constraints.txt ".[${EXTRAS}]"

FROM ${PYTHON} AS runtime
# Whatever user runs it, there is a home for the caches and a folder to work in.
RUN useradd --create-home --uid 1000 ner \
    && mkdir -p /home/ner/.cache /work /model \
    && chmod 1777 /home/ner /home/ner/.cache /work
ENV HOME=/home/ner PATH=/opt/venv/bin:$PATH
WORKDIR /work
USER 1000
EXPOSE 8000
ENTRYPOINT ["qwen-ner"]
CMD ["serve", "/model", "--host", "0.0.0.0"]

FROM runtime AS cpu
COPY --from=build /opt/venv /opt/venv

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /opt/venv /opt/venv
