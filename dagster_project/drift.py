"""Whether users ask for other things than they did: an asset beside the chain, made anew each day from the service's log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_project import charts
from dagster_project.pools import CPU
from dagster_project.resources import ModelsResource, ProjectResource
from uae import drift as drift_room
from uae.io.errors import UaeError
from uae.io.files import sha256_tree

CHECK = "no_drift"


@dg.asset(
    name="drift",
    description="What the service's log of queries says against the queries before the encoder was put to work (uae drift).",
    group_name="watch",
    kinds={"python"},
    pool=CPU,  # of a release it loads the form that is served
    tags={"room": "drift"},
    code_version=sha256_tree(Path(drift_room.__file__).parent)[:12],
    metadata={"command": "uae drift"},
    check_specs=[dg.AssetCheckSpec(CHECK, asset="drift", description="Queries have not changed (uae/drift/evidence.py).")],
)
def drift(project: ProjectResource, models: ModelsResource) -> Iterator[dg.MaterializeResult[Any]]:
    from uae.pipeline.drift import watch_drift

    try:
        with project.entered(models.folder) as workspace:
            report = watch_drift(project.settings(), workspace)
            picture = charts.picture(workspace.path("drift_picture"), "Drift")
    except UaeError as error:
        raise dg.Failure(str(error), allow_retries=error.transient) from None
    metadata: dict[str, Any] = {name: report[name] for name in ("status", "drifted", "retrain", "queries")}
    if "recent" in report:
        metadata |= {"low share": report["recent"]["low"]["share"], "reference's": report["reference"]["low"]["share"]}
        # Words only: what somebody asked stays out of Dagster's database, where it could not be forgotten.
        topics = [{"queries": each["queries"], "words": ", ".join(each["words"])} for each in report["clusters"]]
        metadata["topics without a near passage"] = dg.MetadataValue.table([dg.TableRecord(topic) for topic in topics])
    check = dg.AssetCheckResult(
        check_name=CHECK,
        passed=not report["drifted"],
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(report["reasons"]) or report.get("why_not", "no window shows a change"),
    )
    yield dg.MaterializeResult(metadata=metadata | {"picture": picture}, check_results=[check])


watch_queries = dg.define_asset_job(
    "watch_queries",
    selection=dg.AssetSelection.assets("drift"),
    description="Looks at the service's log of queries. It starts nothing; after drift the chain starts for less.",
)

every_day = dg.ScheduleDefinition(
    name="drift_every_day",
    job=watch_queries,
    cron_schedule="30 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="The drift report, each day at 02:30 UTC.",
)
