"""Everything Dagster loads: ``dagster dev`` finds ``defs`` here (see [tool.dagster] in pyproject.toml)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_project.assets import stage_asset
from dagster_project.automation import corpus_changed, dvc_ran, source_changed, weekly, went_through, whole_chain
from dagster_project.backfill import backfill_versions
from dagster_project.drift import drift, every_day, watch_queries
from dagster_project.publish_job import publish_data
from dagster_project.refresh import refresh
from dagster_project.resources import DvcResource, MlflowResource, ModelsResource, ProjectResource
from dagster_project.source import source
from uae.pipeline.chain import CHAIN
from uae.pipeline.stage import Stage

# Slow to import, and without threads or devices of their own until they are used.
PRELOADED = ("dagster_project.definitions", "torch", "sentence_transformers", "mlflow", "dvc.repo", "great_expectations")
ROOT = Path(__file__).resolve().parents[1]


def build(
    root: Path,
    chain: Sequence[Stage[Any]] = CHAIN,
    executor: dg.ExecutorDefinition | None = None,
    **resources: dg.ConfigurableResource[Any],
) -> dg.Definitions:
    """The definitions of the project in ``root``.

    Args:
        executor: what runs the steps; None: processes of this machine, one at a time.
        resources: in the place of the standard ones with their names.
    """
    standard = {
        "project": ProjectResource(root=str(root)),
        "dvc": DvcResource(),
        "mlflow": MlflowResource(),
        "models": ModelsResource(),
    }
    return dg.Definitions(
        assets=[source, *(stage_asset(stage) for stage in chain), drift],
        jobs=[whole_chain, watch_queries, refresh, publish_data, backfill_versions],
        schedules=[weekly, every_day],
        sensors=[source_changed, corpus_changed, went_through, dvc_ran],
        resources=standard | resources,
        executor=executor or _one_process_a_step(),
    )


def _one_process_a_step() -> dg.ExecutorDefinition:
    """A process a step frees the models' memory when it ends; one at a time, because DVC's lock allows no more.

    All of a run are forked from one that has imported what they need.
    """
    forked = {"forkserver": {"preload_modules": list(PRELOADED)}}
    return dg.multiprocess_executor.configured({"max_concurrent": 1, "start_method": forked})


defs = build(ROOT)
