"""The drift report of a workspace: not a stage, for what it reads, the service's log, changes all the time."""

from pathlib import Path
from typing import Any

from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json
from uae.pipeline.settings import Settings
from uae.pipeline.workspace import Workspace


def watch_drift(settings: Settings, workspace: Workspace, store: Path | None = None) -> dict[str, Any]:
    """Read the log of queries, and write reports/drift.json and its picture.

    The release that is active in the store measures the queries. Where none is, the last that was built does.

    Args:
        store: of releases; None: models/serving.

    Raises:
        ArtefactError: the log is missing or damaged, or there is no release.
    """
    from uae.drift.picture import draw
    from uae.drift.report import drift_report
    from uae.release.store import ReleaseStore

    active = ReleaseStore(store or workspace.root / "models" / "serving").active()
    release = active.folder if active else workspace.path("release")
    report, seen = drift_report(settings.drift, release, settings.compute.device, settings.seed)
    draw(workspace.path("drift_picture"), report, seen)
    write_json(workspace.path("drift"), report)
    return report


def asks_for_retraining(workspace: Workspace) -> bool:
    """Whether the last report says that queries drifted so far that retraining pays (``drift.retrain_share``).

    Raises:
        ArtefactError: the report is broken.
    """
    path = workspace.path("drift")
    if not path.exists():
        return False
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("retrain"), bool):
        raise ArtefactError(f"{path} is not what uae drift writes: delete it, and run uae drift again")
    return bool(found["retrain"])
