# `uae release follow`: installs what an MLflow alias points at into the store of releases. It needs MLflow, and torch where
# torch serves a release; so it is an image of its own, with the whole workflow inside. Its context is the checkout:
#   docker build -f deploy/container/follow.Dockerfile -t uae-follow .
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
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["uae", "release", "follow"]
CMD ["--store", "/store", "--params", "/etc/uae/params.yaml"]
