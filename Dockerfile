# gated-lpi for processors, with the versions that are tested every day: docker build -t gated-lpi .
#   docker run --rm -v "$PWD:/data" gated-lpi demo --out /data/demo-run
# For CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -t gated-lpi .
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /build
COPY constraints.txt ./
# torch alone first: it is large, and seldom another
RUN grep -E '^torch==' constraints.txt > torch.txt && pip install --index-url "$TORCH_INDEX" --requirement torch.txt
COPY pyproject.toml README.md LICENSE LICENSES.md ./
COPY src src
RUN pip install --constraint constraints.txt '.[explore,gguf,ray,s3]' && rm -rf /build/*

RUN useradd --create-home user
USER user
WORKDIR /data
ENV MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["gated-lpi"]
CMD ["--help"]
