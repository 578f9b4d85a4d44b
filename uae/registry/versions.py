"""Looking up registered versions, their releases, and where these come from."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from uae.io.errors import ArtefactError, without_user_info
from uae.registry.tracking import RELEASE_TAG

# What MLflow answers for an unknown model or version, and for an unknown alias. All else says nothing about what there is.
_UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_METRICS = "test/uae/"  # as promote logs them to a version's run


def version_of(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """The version with an alias; None where there is none.

    Raises:
        ArtefactError: the registry cannot be asked.
    """
    return _known(client.get_model_version_by_alias, model, alias)


def version_numbered(client: MlflowClient, model: str, number: str) -> ModelVersion | None:
    """As ``version_of``, by the version's number."""
    return _known(client.get_model_version, model, number)


def _known(ask: Callable[[str, str], ModelVersion], model: str, name: str) -> ModelVersion | None:
    try:
        return ask(model, name)
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            return None
        said = without_user_info(str(error))
        raise ArtefactError(
            f"the registry cannot be asked for {name!r} of {model}: {said}; run this again when it answers"
        ) from error


def release_of(version: ModelVersion) -> Path:
    """The local folder of a registered version's release.

    Raises:
        ArtefactError: its artefacts are gone.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")) / "artifacts" / "release"
    except (MlflowException, OSError) as error:
        said = without_user_info(str(error))
        raise ArtefactError(f"{version.name} version {version.version}: its release cannot be read: {said}") from error


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
