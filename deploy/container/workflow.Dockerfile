# The workflow on a cluster: Dagster's pages, daemon and code location, the Jobs of runs and steps, and Ray's nodes. The project itself,
# its code included, lies on a volume: PYTHONPATH names it. So this image changes with requirements.lock. Its context is the checkout:
#   docker build -f deploy/container/workflow.Dockerfile -t uae-workflow .
FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements.lock /requirements.txt
# torch first, with what the index's build of it needs: of CUDA's libraries, where it is one for GPUs, the lock names none.
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir "$(grep '^torch==' /requirements.txt)"
RUN /venv/bin/pip install --no-cache-dir --no-deps -r /requirements.txt
COPY . /source
RUN /venv/bin/pip install --no-cache-dir --no-deps /source

FROM python:3.11-slim-bookworm
# DVC and publishing need git, of whatever version the distribution has.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
# USER is a name for whoever asks for one: the number below has none.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=uae
WORKDIR /tmp
USER 10001:10001
CMD ["uae", "--help"]
