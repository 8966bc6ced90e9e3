# One image for the head, the workers and the driver of a Ray cluster:
#   docker build -t cost-aware-rl .                        for NVIDIA GPUs
#   docker build -t cost-aware-rl --build-arg DEVICE=cpu .
# Every node needs the cluster's token in RAY_AUTH_TOKEN, and refuses to start without one. Make it
# with `ray get-auth-token --generate`.
#   docker run -e RAY_AUTH_TOKEN ... cost-aware-rl         the head; add --gpus all --shm-size 16g
#   docker run -e RAY_AUTH_TOKEN ... cost-aware-rl ray start --address HEAD:6379 --block
#   docker run ... cost-aware-rl python -m launch.train experiment=quickstart
FROM python:3.11-slim-bookworm

ARG DEVICE=gpu

# g++: engine and learner compile kernels on first use. libnuma1: vLLM on CPUs. wget: health probes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 procps wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# Dependencies before sources, so that an edit does not install them again. What the CPU branch does
# beyond installing is explained in the Makefile.
COPY pyproject.toml README.md ./
COPY .ci/constraints.txt .ci/constraints-gpu.txt .ci/
# hadolint ignore=DL3013
RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-cache-dir -c .ci/constraints.txt torch==2.13.0+cpu \
            --extra-index-url https://download.pytorch.org/whl/cpu \
        && pip install --no-cache-dir -c .ci/constraints.txt ".[cpu]" \
        && pip uninstall --yes torchvision torchaudio torchcodec; \
    else \
        pip install --no-cache-dir -c .ci/constraints-gpu.txt ".[gpu,hub]"; \
    fi

RUN useradd --create-home --uid 1000 app && chown app:app /app
COPY --chown=app:app . .
# vLLM's workers find the weight transfer through the project's entry point.
RUN pip install --no-cache-dir --no-deps -e .

USER 1000
ENV PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token
EXPOSE 6379 8265 10001
CMD ["ray", "start", "--head", "--port=6379", "--dashboard-host=0.0.0.0", "--block"]
