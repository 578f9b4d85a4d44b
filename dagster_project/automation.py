"""When the chain runs by itself: weekly, or when the source changes. Both are off until someone turns them on."""

import time

import dagster as dg

from dagster_project.events import unreported
from dagster_project.lock import LOCK
from dagster_project.resources import DvcResource, ProjectResource
from uae.corpus.loss import how_to_confirm, is_confirmed
from uae.io.errors import UaeError
from uae.pipeline.chain import CHAIN

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


_EVERY_S = 60  # a look at 100,000 files takes less than two seconds
_FIRST_PAUSE_S = 300
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
    """Compares the source with what the chain last went through with (dvc.lock), not with what the last look saw.

    So a run that failed is asked for again, after pauses that double from five minutes to a day. Content that comes back
    (A, B, A) is a change each time. A run has no key: Dagster would never again start one of the same key, even after a
    failure.
    """
    try:
        settings = project.settings()
        watch = project.source(settings)
        seen = watch.look()
    except UaeError as error:
        return dg.SkipReason(str(error))
    source = settings.ingest.path
    if seen is None:
        return dg.SkipReason(f"{source} is pinned to a revision and does not change")
    if project.went_through_with() == seen.version:
        return dg.SkipReason(f"{source} is unchanged: {len(seen.contents)} objects, version {seen.version}")
    if context.instance.get_runs(dg.RunsFilter(job_name=whole_chain.name, statuses=_UNDER_WAY), limit=1):
        return dg.SkipReason("a run of the whole chain is under way")
    if (quiet := time.time() - seen.changed) < settings.source.quiet_s:
        return dg.SkipReason(
            f"{source} changed {max(quiet, 0):.0f} s ago, and may still be being written: a run is asked for when nothing has "
            f"changed for {settings.source.quiet_s:.0f} s (source.quiet_s)"
        )
    if (said := watch.objects_lost(seen)) and not is_confirmed(seen.version, watch.confirmations):
        return dg.SkipReason(f"{said}. {how_to_confirm(seen.version)}")
    if (wait := _pause(context.instance, seen.version)) > 0:
        return dg.SkipReason(f"the last run for {source} ({seen.version}) failed; the next is asked for in {wait:.0f} s")
    return dg.RunRequest(tags={"source": seen.version})


def _pause(instance: dg.DagsterInstance, version: str) -> float:
    """Seconds to wait before a run for this version of the source is asked for (again)."""
    tried = dg.RunsFilter(job_name=whole_chain.name, tags={"source": version}, statuses=_FAILED)
    failures = instance.get_run_records(tried, limit=10)
    if not failures:
        return 0
    ended: float = max(record.end_time or record.create_timestamp.timestamp() for record in failures)
    pause: int = min(_FIRST_PAUSE_S * 2 ** (len(failures) - 1), _LONGEST_PAUSE_S)
    return ended + pause - time.time()


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,  # it starts nothing
    description="Shows what DVC ran as materialised, and what the source holds now. Runs nothing.",
)
def dvc_ran(context: dg.SensorEvaluationContext, project: ProjectResource, dvc: DvcResource) -> dg.SensorResult | dg.SkipReason:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        events = list(unreported(context.instance, project, dvc, CHAIN))
    except (UaeError, DvcException, LockError) as error:
        return dg.SkipReason(str(error))
    return dg.SensorResult(asset_events=events) if events else dg.SkipReason(f"nothing new in {LOCK}")
