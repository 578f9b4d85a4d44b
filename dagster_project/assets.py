"""One asset a stage, built from ``uae.pipeline.chain.CHAIN``: run the stage, have DVC record it, tell what came out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_project.checks import check_results, check_specs, gate_result, quality_result, unjudged
from dagster_project.metadata import describe
from dagster_project.resources import SOURCE_VERSION, DvcResource, MlflowResource, ModelsResource, ProjectResource
from uae.io.errors import UaeError, ValidationFailed
from uae.io.files import sha256_bytes
from uae.pipeline.chain import run_stage, upstream
from uae.pipeline.run import code_hash
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import ARTEFACTS

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
        deps=upstream(stage),
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
        output_required=False,  # a stage whose data fail their suites reports its checks and materialises nothing
    )
    def asset(
        context: dg.AssetExecutionContext,
        project: ProjectResource,
        dvc: DvcResource,
        mlflow: MlflowResource,
        models: ModelsResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        try:
            yield from _materialise(stage, context, project, dvc, mlflow, models)
        except UaeError as error:
            # A user can act on it: the message is enough. Only a transient error may go away by itself.
            raise dg.Failure(str(error), allow_retries=error.transient) from None

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
) -> list[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    settings = project.settings()
    with project.entered(models.folder) as workspace, dvc.holding(stage.name):
        used = models.used_by(stage, settings)
        # Before it is read: content that changes meanwhile is another version to the sensor.
        source = project.source_version(settings) if stage.reads_source else None
        try:
            result = run_stage(stage, settings, workspace)
        except ValidationFailed as error:
            context.log.error(str(error))
            return [*check_results(stage.name, error.report), *([unjudged()] if stage.name == "label" else [])]
        hashes = dvc.commit(stage.name)
        metadata = describe(stage, result, workspace) | used | {"dvc md5": dg.MetadataValue.json(hashes)}
    if source is not None:
        metadata[SOURCE_VERSION] = source
    if "run_id" in result:
        metadata["mlflow run"] = dg.MetadataValue.url(mlflow.run_url(settings, project.root, result["run_id"]))
    checks = check_results(stage.name, result.get("validation", result))
    if "quality" in result:
        checks.append(quality_result(result["quality"], workspace.path("label_page").absolute()))
    if stage.name == "promote":
        checks.append(gate_result(result, workspace.path("gate_page").absolute()))
    return [
        dg.MaterializeResult(
            metadata=metadata,
            check_results=checks,
            data_version=dg.DataVersion(sha256_bytes(*hashes.values())[:12]),
        )
    ]
