"""Looking up registered versions and their releases."""

from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from uae.errors import ArtefactError
from uae.registry.tracking import RELEASE_TAG


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


def with_release(client: MlflowClient, model: str, release: str) -> ModelVersion | None:
    """The version of a release (its fingerprint), if it is registered."""
    versions = client.search_model_versions(f"name = '{model}'")
    return next((version for version in versions if version.tags.get(RELEASE_TAG) == release), None)


def latest(client: MlflowClient, model: str) -> ModelVersion:
    return max(client.search_model_versions(f"name = '{model}'"), key=lambda version: int(version.version))
