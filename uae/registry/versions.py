"""Looking up registered versions, their releases, and where these come from."""

from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from uae.errors import ArtefactError
from uae.registry.tracking import RELEASE_TAG

_METRICS = "test/uae/"  # as promote logs them to a version's run


def version_of(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException:
        return None


def release_of(version: ModelVersion) -> Path:
    """The local folder of a registered version's release.

    Raises:
        ArtefactError: its artefacts are gone.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")) / "artifacts" / "release"
    except (MlflowException, OSError) as error:
        raise ArtefactError(f"{version.name} version {version.version}: its release cannot be read: {error}") from error


def origin_of(client: MlflowClient, version: ModelVersion) -> dict:
    """{"model", "version", "promoted_at", "metrics"}: the means over the test questions that the gate saw.

    A run holds the metrics of all versions that have its encoder, so they are taken as they were when this one was registered.
    """
    metrics = {}
    for key in sorted(client.get_run(version.run_id).data.metrics) if version.run_id else ():
        if key.startswith(_METRICS):
            history = client.get_metric_history(version.run_id, key)
            logged = [(each.timestamp, each.value) for each in history if each.timestamp <= version.creation_timestamp]
            if logged:
                metrics[key.removeprefix(_METRICS).replace("_at_", "@")] = max(logged)[1]
    registered_at = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "model": version.name,
        "version": int(version.version),
        "promoted_at": registered_at.isoformat(timespec="seconds"),
        "metrics": metrics,
    }


def with_release(client: MlflowClient, model: str, release: str) -> ModelVersion | None:
    """The version of a release (its fingerprint), if it is registered."""
    versions = client.search_model_versions(f"name = '{model}'")
    return next((version for version in versions if version.tags.get(RELEASE_TAG) == release), None)


def latest(client: MlflowClient, model: str) -> ModelVersion:
    return max(client.search_model_versions(f"name = '{model}'"), key=lambda version: int(version.version))
