"""When the chain runs by itself: weekly, or when the source changes. Both are off until someone turns them on."""

from pathlib import Path

import dagster as dg

from dagster_project.resources import ProjectResource
from uae.io.errors import UaeError
from uae.io.files import sha256_tree

whole_chain = dg.define_asset_job(
    "whole_chain",
    selection=dg.AssetSelection.all(),
    description="Every stage, from the source to the Bento; a failing suite or a refused promotion stops or holds it.",
)

weekly = dg.ScheduleDefinition(
    name="weekly",
    job=whole_chain,
    cron_schedule="0 3 * * 1",  # Monday 03:00 UTC
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="The whole chain, Mondays at 03:00 UTC.",
)


@dg.sensor(
    job=whole_chain,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Starts the whole chain when the content of ingest.path differs from what the last look saw.",
)
def source_changed(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SensorResult | dg.SkipReason:
    """The cursor is the content's hash. A run has no key: content that comes back (A, B, A) is a change each time."""
    try:
        source = project.settings().ingest.path
        if source.startswith("hf:"):
            return dg.SkipReason(f"{source} is pinned to a revision and does not change")
        seen = sha256_tree(Path(project.root) / source)
    except UaeError as error:
        return dg.SkipReason(str(error))
    if context.cursor is None:
        return dg.SensorResult(skip_reason=f"first look at {source}: {seen[:12]} noted", cursor=seen)
    if context.cursor == seen:
        return dg.SkipReason(f"{source} is unchanged ({seen[:12]})")
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={"source": seen[:12]})], cursor=seen)
