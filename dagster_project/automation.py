"""When runs start by themselves: weekly, or when the source changes. All are off until someone turns them on."""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from dagster_project.events import unreported
from dagster_project.lock import LOCK
from dagster_project.publish_job import PUBLISHED_JOB, PUBLISHED_RUN, publish_data
from dagster_project.refresh import refresh
from dagster_project.resources import DvcResource, ProjectResource
from dagster_project.through import promoted_source
from uae.corpus.loss import how_to_confirm, is_confirmed
from uae.corpus.snapshot import Snapshot
from uae.corpus.watch import Watch
from uae.io.errors import UaeError
from uae.pipeline.chain import CHAIN
from uae.pipeline.drift import asks_for_retraining
from uae.pipeline.settings import Settings
from uae.pipeline.stages.label import readings_waiting
from uae.pipeline.workspace import Workspace

whole_chain = dg.define_asset_job(
    "whole_chain",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets("drift"),
    description="Every stage, from the source to the Bento; a failing suite or a refused promotion stops or holds it.",
)

_EVERY_S = 60
_FIRST_PAUSE_S = 300
_LONGEST_PAUSE_S = 24 * 3600
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_RUNNING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
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
    found = _look(context.instance, project)
    if isinstance(found, str):
        return dg.SkipReason(found)
    if found.now is None:
        return dg.SkipReason(f"{found.settings.ingest.path} is pinned to a revision and does not change")
    if found.changes is not None and found.changes < found.least(found.settings.retrain.min_documents):
        return dg.SkipReason(_too_little(found))
    if (wait := _pause(context.instance, whole_chain.name, found.now.version)) > 0:
        return dg.SkipReason(f"the last run for {found.now.version} failed; the next is asked for in {wait:.0f} s")
    return dg.RunRequest(tags=_tags(found, "source_changed"))


@dg.sensor(
    job=refresh,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Starts a refresh while the content of ingest.path is another one than is served.",
)
def corpus_changed(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.RunRequest | dg.SkipReason:
    """Compares the source with what was last promoted from this folder, by the chain or by a refresh. Any change will do.

    A refresh goes before a chain that waits in the queue. A chain that is running has read the source: it is waited for.
    """
    try:
        settings = project.settings()
        watch = project.source(settings)
        now = watch.look()
        served = promoted_source(Path(project.root))
    except UaeError as error:
        return dg.SkipReason(str(error))
    if now is None:
        return dg.SkipReason(f"{settings.ingest.path} is pinned to a revision and does not change")
    if served is None:
        return dg.SkipReason("nothing was promoted from this folder yet: run the whole chain first")
    if served == now.version:
        return dg.SkipReason(f"{watch.path} is what is served, version {now.version}")
    for job, statuses in ((whole_chain.name, _RUNNING), (refresh.name, _UNDER_WAY)):
        if context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=statuses), limit=1):
            return dg.SkipReason(f"a run of {job} is under way")
    if (held := _held_back(settings, watch, now)) is not None:
        return dg.SkipReason(held)
    if (wait := _pause(context.instance, refresh.name, now.version)) > 0:
        return dg.SkipReason(f"the last refresh for {now.version} failed; the next is asked for in {wait:.0f} s")
    return dg.RunRequest(tags={"source": now.version, "chain/started_by": "corpus_changed", "dagster/priority": "1"})


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[whole_chain, refresh],
    request_job=publish_data,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Publishes the data version after each run of the chain or of the refresh that went through.",
)
def went_through(context: dg.RunStatusSensorContext) -> dg.RunRequest:
    run = context.dagster_run
    return dg.RunRequest(tags={PUBLISHED_RUN: run.run_id, PUBLISHED_JOB: run.job_name, "source": run.tags.get("source", "")})


@dg.schedule(
    job=whole_chain,
    cron_schedule="0 3 * * 1",  # Monday 03:00 UTC
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="The whole chain, Mondays at 03:00 UTC, if enough is new (documents, waiting readings; after drift anything).",
)
def weekly(context: dg.ScheduleEvaluationContext, project: ProjectResource) -> dg.RunRequest | dg.SkipReason:
    found = _look(context.instance, project)
    if isinstance(found, str):
        return dg.SkipReason(found)
    enough = found.settings.retrain
    few = found.changes is not None and found.changes < found.least(enough.min_documents)
    if few and found.waiting < found.least(enough.min_readings):
        return dg.SkipReason(_too_little(found))
    return dg.RunRequest(tags=_tags(found, "weekly"))


class _Found(NamedTuple):
    settings: Settings
    now: Snapshot | None  # None: it is pinned, and does not change
    changes: (
        int | None
    )  # objects that are new, changed or gone since the chain went through; None: it never did, or not to its end
    waiting: int  # readings that wait for a budget
    drifted: bool  # the drift report asks for retraining

    def least(self, threshold: int) -> int:
        """From how many on there is enough: where queries drifted, whatever is new. The same data would give the same encoder."""
        return min(threshold, 1) if self.drifted else threshold


def _look(instance: dg.DagsterInstance, project: ProjectResource) -> _Found | str:
    """What there is to do, or why nothing may be started now, whatever there is to do."""
    try:
        settings = project.settings()
        watch = project.source(settings)
        now = watch.look()
        workspace = Workspace(Path(project.root))
        waiting, drifted = readings_waiting(workspace), asks_for_retraining(workspace)
    except UaeError as error:
        return str(error)
    if instance.get_runs(dg.RunsFilter(job_name=whole_chain.name, statuses=_UNDER_WAY), limit=1):
        return "a run of the whole chain is under way"
    through = project.went_through_with()
    if now is None:
        return _Found(settings, now, None if through is None else 0, waiting, drifted)
    if (held := _held_back(settings, watch, now)) is not None:
        return held
    if through is None:
        changes = None
    else:
        changes = 0 if through.version == now.version else dataclasses.replace(watch, record=through.record).changes(now)
    return _Found(settings, now, changes, waiting, drifted)


def _held_back(settings: Settings, watch: Watch, now: Snapshot) -> str | None:
    """Why what lies in the source may not be read yet."""
    if (quiet := time.time() - now.changed) < settings.source.quiet_s:
        return (
            f"{watch.path} changed {max(quiet, 0):.0f} s ago, and may still be being written: a run is asked for when nothing "
            f"has changed for {settings.source.quiet_s:.0f} s (source.quiet_s)"
        )
    if (said := watch.objects_lost(now)) and not is_confirmed(now.version, watch.confirmations):
        return f"{said}. {how_to_confirm(now.version)}"
    return None


def _too_little(found: _Found) -> str:
    enough = found.settings.retrain
    changed = f"{found.changes} objects changed since the chain went through" if found.changes else "unchanged"
    holds = f"{len(found.now.contents)} objects, version {found.now.version}" if found.now else "a pinned revision"
    return (
        f"{found.settings.ingest.path} holds {holds}: {changed} "
        f"(retrain.min_documents: {enough.min_documents}). {found.waiting} readings wait for a budget "
        f"(retrain.min_readings: {enough.min_readings}, for the schedule)"
        + (
            ". Queries have drifted: anything new starts the chain (reports/drift.json says what is asked)"
            if found.drifted
            else ""
        )
    )


def _tags(found: _Found, by: str) -> dict[str, str]:
    """Of a run: what it is for, in words that Dagster can be searched by."""
    changes = "never went through" if found.changes is None else str(found.changes)
    return {
        "source": found.now.version if found.now else found.settings.ingest.path,
        "chain/started_by": by,
        "chain/changed_objects": changes,
        "chain/readings_waiting": str(found.waiting),
        "chain/drifted": str(found.drifted).lower(),
    }


def _pause(instance: dg.DagsterInstance, job: str, version: str) -> float:
    """Seconds to wait before a run for this version of the source is asked for (again)."""
    tried = dg.RunsFilter(job_name=job, tags={"source": version}, statuses=_FAILED)
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
