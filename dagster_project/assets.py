"""One asset a stage, built from ``uae.pipeline.chain.CHAIN``: run the stage, have DVC record it, tell what came out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import dagster as dg

from dagster_project.again import explained
from dagster_project.checks import check_results, check_specs, results_of_checks, unjudged
from dagster_project.events import last_version
from dagster_project.lock import Lock, data_version
from dagster_project.metadata import describe
from dagster_project.pools import pool_of
from dagster_project.reports import result_on_disk
from dagster_project.resources import DvcResource, MlflowResource, ModelsResource, ProjectResource
from dagster_project.source import SOURCE
from uae.corpus.loss import CONFIRM_LOSS, confirm
from uae.corpus.watch import Watch
from uae.io.errors import ValidationFailed
from uae.pipeline.chain import run_stage, upstream
from uae.pipeline.run import code_hash
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import ARTEFACTS, Workspace

FORCE = "chain/force"  # the tag of a run that runs stages which DVC knows to be current
# An output with this key lets what is downstream go on, and is written down as no materialization. Dagster has it for sources
# that are observed, and no public name for it: tests/dagster/test_nothing_to_do.py notices when it goes.
_NO_EVENT = "__source_asset_observation__"
KINDS = {
    "ingest": {"python", "parquet"},
    "validate": {"greatexpectations"},
    "candidates": {"python", "parquet"},
    "label": {"pytorch", "huggingface"},
    "train": {"pytorch", "mlflow"},
    "fuse": {"pytorch"},
    "index": {"faiss"},
    "evaluate": {"python", "huggingface"},
    "promote": {"mlflow"},
    "package": {"bentoml"},
}


def stage_asset(stage: Stage[Any]) -> dg.AssetsDefinition:
    @dg.asset(
        name=stage.name,
        deps=[*([SOURCE] if stage.reads_source else []), *upstream(stage)],
        dagster_type=cast(dg.DagsterType, dg.Nothing),  # what an asset makes lies in files
        description=stage.summary,
        group_name="uae",
        kinds=KINDS[stage.name],
        tags={"room": Path(stage.code[0]).parts[1]},  # the folder of uae/ that the stage is at home in
        metadata={
            "command": f"uae {stage.name}",
            "parameters": dg.MetadataValue.json(list(stage.params)),
            "outputs": dg.MetadataValue.json([ARTEFACTS[name] for name in stage.makes]),
        },
        code_version=code_version(stage),
        check_specs=check_specs(stage.name),
        pool=pool_of(stage.name),
        output_required=False,  # a stage whose data fail their suites reports its checks and materialises nothing
    )
    def asset(
        context: dg.AssetExecutionContext,
        project: ProjectResource,
        dvc: DvcResource,
        mlflow: MlflowResource,
        models: ModelsResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult | dg.Output[None]]:
        with explained(context):
            yield from _materialise(stage, context, project, dvc, mlflow, models)

    return asset


def code_version(stage: Stage[Any]) -> str:
    """Hash of the code that DVC watches for the stage, so that both call the same assets outdated."""
    return code_hash(stage)[:12]


def _materialise(
    stage: Stage[Any],
    context: dg.AssetExecutionContext,
    project: ProjectResource,
    dvc: DvcResource,
    mlflow: MlflowResource,
    models: ModelsResource,
) -> list[dg.MaterializeResult[Any] | dg.AssetCheckResult | dg.Output[None]]:
    settings = project.settings()
    with project.entered(models.folder) as workspace, dvc.holding(stage.name):
        if stage.reads_source:
            _note_confirmation(context, project.source(settings))
        current = FORCE not in context.run.tags and dvc.is_current(stage.name)
        if current and not stage.unfinished(stage.parameters.of(settings), workspace):
            return _current(stage, context, workspace)
        used = models.used_by(stage, settings)
        try:
            result = run_stage(stage, settings, workspace)
        except ValidationFailed as error:
            context.log.error(str(error))
            return [*check_results(stage.name, error.report), *([unjudged()] if stage.name == "label" else [])]
        hashes = dvc.commit(stage.name)
        metadata: dict[str, Any] = used | {"dvc md5": dg.MetadataValue.json(hashes)}
        if "run_id" in result:
            metadata["mlflow run"] = dg.MetadataValue.url(mlflow.run_url(settings, project.root, result["run_id"]))
        return [_told(stage, result, workspace, data_version(hashes), metadata)]


def _note_confirmation(context: dg.AssetExecutionContext, watch: Watch) -> None:
    """Take a run's tag for a person's word that this version of the source may lack what it lacks."""
    confirmed = context.run.tags.get(CONFIRM_LOSS)
    now = watch.look() if confirmed else None
    if now is not None and now.version == confirmed:
        why = f"the tag {CONFIRM_LOSS} of the Dagster run {context.run.run_id}"
        confirm(now.version, context.run.tags.get("user", "whoever started the run"), why, watch.confirmations)


def _current(
    stage: Stage[Any], context: dg.AssetExecutionContext, workspace: Workspace
) -> list[dg.MaterializeResult[Any] | dg.AssetCheckResult | dg.Output[None]]:
    """For a stage that DVC knows to be current: no event at all, or what DVC made where Dagster has not heard of it yet."""
    version = Lock(workspace.root).version(stage.name)
    context.log.info(f"{stage.name} is current (dvc.lock, {version}): nothing is run. A run with the tag {FORCE} runs it")
    if version is None or last_version(context.instance, stage.name) == version:
        checks = [dg.Output(None, spec.get_python_identifier()) for spec in check_specs(stage.name)]  # they stay as they are
        return [dg.Output(None, metadata={_NO_EVENT: True}), *checks]
    return [_told(stage, result_on_disk(stage, workspace), workspace, version, {})]


def _told(
    stage: Stage[Any], result: dict[str, Any], workspace: Workspace, version: str, more: dict[str, Any]
) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(
        metadata=describe(stage, result, workspace) | more,
        check_results=results_of_checks(stage.name, result, workspace),
        data_version=dg.DataVersion(version),
    )
