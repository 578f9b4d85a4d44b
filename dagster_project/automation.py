"""When the chain runs by itself: weekly, or when the source changes. Both are off until someone turns them on."""

import time

import dagster as dg

from dagster_project.resources import SOURCE_VERSION, ProjectResource
from uae.io.errors import UaeError
from uae.pipeline.chain import CHAIN

whole_chain = dg.define_asset_job(
    "whole_chain",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets("drift"),
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


_EVERY_S = 300
_LONGEST_PAUSE_S = 24 * 3600
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_UNDER_WAY = [status for status in dg.DagsterRunStatus if status not in (*_FAILED, dg.DagsterRunStatus.SUCCESS)]


@dg.sensor(
    job=whole_chain,
    minimum_interval_seconds=_EVERY_S,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Starts the whole chain while the content of ingest.path is another one than the chain last went through with.",
)
def source_changed(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.RunRequest | dg.SkipReason:
    """Compares the source with what was last materialised from it, not with what the last look saw.

    So a run that failed is asked for again, after pauses that double from five minutes to a day. Content that comes back
    (A, B, A) is a change each time. A run has no key: Dagster would never again start one of the same key, even after a
    failure.
    """
    try:
        settings = project.settings()
        seen = project.source_version(settings)
    except UaeError as error:
        return dg.SkipReason(str(error))
    source = settings.ingest.path
    if seen is None:
        return dg.SkipReason(f"{source} is pinned to a revision and does not change")
    if _went_through(context.instance) == seen:
        return dg.SkipReason(f"{source} is unchanged ({seen})")
    if context.instance.get_runs(dg.RunsFilter(job_name=whole_chain.name, statuses=_UNDER_WAY), limit=1):
        return dg.SkipReason("a run of the whole chain is under way")
    if (wait := _pause(context.instance, seen)) > 0:
        return dg.SkipReason(f"the last run for {source} ({seen}) failed; the next is asked for in {wait:.0f} s")
    return dg.RunRequest(tags={"source": seen})


def _went_through(instance: dg.DagsterInstance) -> str | None:
    """The version of the source of which every asset was made; None where some asset was not made after ingest."""
    last = [instance.fetch_materializations(dg.AssetKey(stage.name), limit=1).records for stage in CHAIN]
    if not all(last):
        return None
    ingest, *others = [records[0] for records in last]
    if min(other.storage_id for other in others) < ingest.storage_id or ingest.asset_materialization is None:
        return None
    version = ingest.asset_materialization.metadata.get(SOURCE_VERSION)
    return None if version is None else str(version.value)


def _pause(instance: dg.DagsterInstance, version: str) -> float:
    """Seconds to wait before a run for this version of the source is asked for (again)."""
    tried = dg.RunsFilter(job_name=whole_chain.name, tags={"source": version}, statuses=_FAILED)
    failures = instance.get_run_records(tried, limit=10)
    if not failures:
        return 0
    ended: float = max(record.end_time or record.create_timestamp.timestamp() for record in failures)
    pause: int = min(_EVERY_S * 2 ** (len(failures) - 1), _LONGEST_PAUSE_S)
    return ended + pause - time.time()
