# Everything runs from .venv, built from requirements.lock. The newest Python of 3.11 to 3.13 that can make one is used; PYTHON overrides.
PYTHON ?=
FIND_PYTHON = for p in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null && { echo $$p; break; }; done
BIN := .venv/bin
# Plain Python that its author publishes as source alone: DVC's configuration needs it.
SOURCE_ONLY = antlr4-python3-runtime
# No tool of the chain calls home.
export DO_NOT_TRACK = 1
export BENTOML_DO_NOT_TRACK = True
export MLFLOW_DISABLE_TELEMETRY = true
export ORT_DISABLE_TELEMETRY = 1
export GX_ANALYTICS_ENABLED = false
export DVC_NO_ANALYTICS = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export DAGSTER_DISABLE_TELEMETRY = yes
export HAYSTACK_TELEMETRY_ENABLED = False
export RAY_USAGE_STATS_ENABLED = 0
export DAGSTER_HOME := $(CURDIR)/.dagster
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.DEFAULT_GOAL := help
.PHONY: help setup models pipeline test cycle platform dagster mlflow serve lint format lock check-lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

pipeline: setup models  ## set up if needed, run the whole chain on the bundled corpus, print the result
	@dvc repro
	@uae summary

test: setup  ## set up if needed, run the tests
	@OMP_NUM_THREADS=1 pytest -n auto --dist loadfile

cycle: setup  ## start the whole platform and drive a cycle through it; minutes
	@OMP_NUM_THREADS=1 pytest -s -m platform tests/platform

platform: setup models  ## all servers on this machine: Dagster, MLflow, PostgreSQL, S3, the service
	@python -m deploy.platform.up

dagster: setup models  ## the Dagster UI on port 3001
	@mkdir -p $(DAGSTER_HOME) && cp -n dagster_project/dagster.yaml $(DAGSTER_HOME)/ 2>/dev/null || true
	@dagster dev --port 3001

mlflow: setup  ## the MLflow UI on port 5000
	@mlflow ui --backend-store-uri sqlite:///mlflow.db --port 5000

serve: setup  ## serve the release activated in models/serving, else the champion's Bento, on port 3000
	@test -d models/bento/bento || { echo "There is no Bento yet: run make pipeline first (or see reports/promotion.json)"; exit 1; }
	@UAE_STORE="$${UAE_STORE:-$$(test ! -f models/serving/active.json || echo $(CURDIR)/models/serving)}" \
		bentoml serve $(CURDIR)/models/bento/bento --port 3000

lint: setup  ## check style, layers and types
	@ruff check . && ruff format --check . && mypy

format: setup  ## apply the style
	@ruff check --fix . && ruff format .

setup: .venv/.installed  ## build .venv from requirements.lock

models: setup  ## fetch the demo's models into models/
	@uae models > /dev/null

.venv/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || { python=$$($(FIND_PYTHON)); \
		test -n "$$python" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed and was not found; set PYTHON=/path/to/python"; exit 1; }; \
		$$python -m venv .venv; }
	@echo "Installing into .venv (once; a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lock:  ## resolve requirements.lock anew from pyproject.toml
	@$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-options --all-extras --allow-unsafe \
		--output-file requirements.lock pyproject.toml
	@sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock  # the local build's mark; elsewhere the plain version is meant

check-lock: setup  ## ask the package index for a binary wheel of every pin, for each Python
	@for version in 3.11 3.12 3.13; do \
		grep -E '^[a-z]' requirements.lock | grep -vE '^($(SOURCE_ONLY))==' | $(BIN)/python -m pip install --dry-run --quiet \
			--disable-pip-version-check --ignore-installed --only-binary=:all: --no-deps --python-version $$version \
			--target .wheels-checked -r /dev/stdin && echo "Python $$version: a wheel for every pin" || exit 1; \
	done

clean:  ## remove what the pipeline made (models fetched and the environment stay)
	@rm -rf .uae data/*.parquet data/*.json data/labels data/refreshed_labels data/judgements data/vectors reports \
		models/student models/.student.checkpoints models/rivals models/reward models/second_stage models/.second_stage.checkpoints \
		models/release models/bento mlflow.db mlruns .dagster
