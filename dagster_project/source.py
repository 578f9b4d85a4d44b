"""The source as an asset: what it holds, and when it last changed. Nothing makes it; it is looked at."""

import datetime
import warnings
from typing import Any

import dagster as dg

from dagster_project.resources import ProjectResource
from uae.corpus.snapshot import Snapshot
from uae.io.errors import UaeError

SOURCE = "source"


def _observe(project: ProjectResource) -> dg.ObserveResult:
    try:
        settings = project.settings()
        now = project.source(settings).look()
    except UaeError as error:
        raise dg.Failure(str(error), allow_retries=error.transient) from None
    if now is None:
        pinned = dg.MetadataValue.text(f"{settings.ingest.path} is pinned and does not change")
        return dg.ObserveResult(metadata={"path": pinned}, data_version=dg.DataVersion(settings.ingest.path))
    return dg.ObserveResult(metadata=describe_source(settings.ingest.path, now), data_version=dg.DataVersion(now.version))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # it is what Dagster has for a source; the lock holds Dagster's version
    source = dg.observable_source_asset(
        name=SOURCE,
        group_name="uae",
        description="What lies at ingest.path: its objects, their content's version, and when it last changed.",
        tags={"room": "corpus"},
    )(_observe)


def describe_source(path: str, now: Snapshot) -> dict[str, Any]:
    return {
        "path": path,
        "objects": len(now.contents),
        "bytes": now.bytes,
        "version": now.version,
        "last change": dg.MetadataValue.timestamp(datetime.datetime.fromtimestamp(now.changed, datetime.UTC)),
    }
