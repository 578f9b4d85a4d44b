"""The refresh lane as a job: the champion over today's corpus, in minutes, without an LLM and without training.

Its steps are no assets. The chain's assets are materialised from the source to the Bento, and a refresh is no part of that. The
sensor and the schedule of the chain go on comparing with what the chain itself went through with.
"""

import dagster as dg

from dagster_project.again import explained
from dagster_project.pools import ACCELERATOR, CPU
from dagster_project.resources import DvcResource, ModelsResource, ProjectResource
from dagster_project.through import keep
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.refresh import READING
from uae.pipeline.refresh import refresh as refresh_champion


@dg.op(out=dg.Out(dg.Nothing), pool=CPU, description="Read and validate the source, and have DVC record the tables.")
def read_source(context: dg.OpExecutionContext, project: ProjectResource, dvc: DvcResource, models: ModelsResource) -> None:
    settings = project.settings()
    with explained(context), project.entered(models.folder) as workspace:
        keep(workspace.root)
        for name in READING:
            with dvc.holding(name):
                run_stage(STAGES[name], settings, workspace)
                dvc.commit(name)


@dg.op(
    ins={"read": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
    pool=ACCELERATOR,
    description="Build the champion over these tables, compare it with what is served, and move the alias if it is not worse.",
)
def refresh_release(context: dg.OpExecutionContext, project: ProjectResource, models: ModelsResource) -> None:
    with explained(context), project.entered(models.folder) as workspace:
        result = refresh_champion(project.settings(), workspace)
    counts = {**result["passages"], "encoded": result["vectors_embedded"], "seconds": result["seconds"]}
    context.add_output_metadata(
        {
            "champion": result["champion"],
            "promoted": result["promoted"],
            "rules": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in result["reasons"])),
            **counts,
        }
    )
    if not result["promoted"]:
        refused = [reason for reason in result["reasons"] if reason.endswith("FAILED")]
        raise dg.Failure(f"version {result['version']} was refused: {'; '.join(refused)}", allow_retries=False)


@dg.job(description="The champion over today's corpus: new texts are encoded, deleted ones are gone. No LLM, no training.")
def refresh() -> None:
    refresh_release(read_source())
