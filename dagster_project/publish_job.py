"""Publishing as a job: what a run of the chain or of the refresh made goes to the remotes, data first."""

from pathlib import Path

import dagster as dg

from dagster_project.again import explained
from dagster_project.backfill import corpus_versions, published_versions
from dagster_project.pools import CPU
from dagster_project.publish import Publication, publish
from dagster_project.resources import ProjectResource

PUBLISHED_RUN, PUBLISHED_JOB = "publish/run", "publish/job"  # tags: after which run, of which job


@dg.op(
    out=dg.Out(dg.Nothing),
    pool=CPU,
    description="Push data to DVC's remote, verify them there, then commit and tag what names them, and push that.",
)
def publish_version(context: dg.OpExecutionContext, project: ProjectResource) -> None:
    tags = context.run.tags
    message = f"{tags.get(PUBLISHED_JOB, 'a run')} of source {tags.get('source') or 'unknown'}"
    # After a refresh the stages that train are older than what they would read.
    publication = Publication(Path(project.root), message, None, "origin", False, context.log.info, behind=True)
    with explained(context):
        tag = publish(publication)
    # All of them: some may have been published in a terminal.
    context.instance.add_dynamic_partitions(str(corpus_versions.name), published_versions(Path(project.root)))
    context.add_output_metadata({"tag": tag})


@dg.job(description="The data version at hand, to DVC's remote and to git's. It goes on where it was killed.")
def publish_data() -> None:
    publish_version()
