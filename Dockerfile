# gigamil in a container; docs/index.md says how it is built and run.
#
# DEVICE=cuda: PyTorch's CUDA build, which brings its CUDA libraries; the host needs NVIDIA's driver and container toolkit.
# DEVICE=cpu: PyTorch's CPU build, from TORCH_INDEX: the address that PyTorch's own page gives for pip and "CPU".
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# Not pinned: Debian keeps a package's latest version only. Its Python is the one whose versions constraints.txt holds.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
# pip stands beside what it installs into, and stays behind.
# hadolint ignore=DL3013
RUN python3 -m venv /opt/pip \
    && /opt/pip/bin/pip install --no-cache-dir --upgrade pip \
    && python3 -m venv --without-pip /opt/gigamil
WORKDIR /src
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_PYTHON=/opt/gigamil/bin/python PIP_NO_CACHE_DIR=1
COPY constraints.txt ./
ARG DEVICE=cuda
ARG TORCH_INDEX=
# A layer of its own: it is most of the image, and stays while the code changes.
RUN /opt/pip/bin/pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch torchvision \
    && /opt/gigamil/bin/python -c "import torch; found = 'cuda' if torch.version.cuda else 'cpu'; \
assert found == '${DEVICE}', f'this PyTorch is the {found} build, DEVICE says ${DEVICE}: TORCH_INDEX tells where another is'"
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY wsi wsi
COPY features features
COPY mil mil
COPY cli cli
COPY sample_data sample_data
ARG EXTRAS=s3
RUN /opt/pip/bin/pip install ".[${EXTRAS}]" \
    && test -s /opt/gigamil/lib/python3*/site-packages/wsi/viewing/frontend/openseadragon.min.js \
    && find /opt/gigamil/lib -type d -name tests -prune -exec rm -r {} +

FROM ${BASE}
LABEL org.opencontainers.image.title="gigamil" \
    org.opencontainers.image.description="Gigapixel whole-slide images in, patient-level predictions and pages out" \
    org.opencontainers.image.licenses="MIT"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 gigamil
COPY --from=build /opt/gigamil /opt/gigamil
# Nothing is fetched at run time; HF_HUB_OFFLINE=0 lets weights come from the hub into HF_HOME.
# /tmp is a home to any user that `--user` names.
ENV PATH=/opt/gigamil/bin:$PATH HF_HUB_OFFLINE=1 HF_HOME=/weights HOME=/tmp PYTHONNOUSERSITE=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["tini", "--", "gigamil"]
CMD ["--help"]
