"""Looking up registered versions, their releases, and where these come from."""

import atexit
import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from uae.io.errors import RegistryError
from uae.registry.errors import registry_errors
from uae.registry.tracking import ENCODER_TAG, FORGOTTEN_TAG, GATE_TAG, PASSED, RELEASE_TAG, SCORE_TAG, connect

# What MLflow answers for an unknown model or version, and for an unknown alias. All else says nothing about what there is.
_UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_METRICS = "test/uae/"  # as promote logs them to a version's run
_AT = re.compile(r"_at_(?=\d+$)")  # MLflow takes no @; "at" within a name is a word


def version_of(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """The version with an alias; None where there is none.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    return _known(client.get_model_version_by_alias, model, alias)


def champion_now(root: Path, uri: str, experiment: str, model: str, alias: str) -> int | None:
    """The number of the version with an alias today; None where there is none, or the registry cannot be asked now."""
    try:
        champion = version_of(connect(uri, experiment, root), model, alias)
    except RegistryError:
        return None
    return int(champion.version) if champion is not None else None


def version_numbered(client: MlflowClient, model: str, number: str) -> ModelVersion | None:
    """As ``version_of``, by the version's number."""
    return _known(client.get_model_version, model, number)


def _known(ask: Callable[[str, str], ModelVersion], model: str, name: str) -> ModelVersion | None:
    with registry_errors(f"the registry cannot be asked for {name!r} of {model}"):
        try:
            return ask(model, name)
        except MlflowException as error:
            if error.error_code in _UNKNOWN:
                return None
            raise


def release_of(version: ModelVersion) -> Path:
    """The local folder of a registered version's release. What a remote store sends is there until this process ends.

    Raises:
        RegistryError: its artefacts are gone, or cannot be fetched.
    """
    with reading_release(version):
        stored = MlflowClient().get_model_version_download_uri(version.name, version.version)
        # MLflow leaves a folder that it made by itself to whoever asked; without one it reads local artefacts where they lie.
        into = None if urlsplit(stored).scheme in ("", "file") else tempfile.mkdtemp(dir=_fetched())
        found = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=into)
        return Path(found) / "artifacts" / "release"


@cache
def _fetched() -> str:
    folder = tempfile.TemporaryDirectory(prefix="uae-releases-")
    atexit.register(folder.cleanup)
    return folder.name


def has_artefacts(version: ModelVersion) -> bool:
    """Whether the release of a registered version can still be read.

    Raises:
        RegistryError: the registry cannot be asked now. ``transient`` is true: this says nothing about the artefacts.
    """
    if FORGOTTEN_TAG in version.tags:  # a store may go on listing its empty folders
        return False
    try:
        with reading_release(version):
            return bool(mlflow.artifacts.list_artifacts(f"models:/{version.name}/{version.version}"))
    except RegistryError as error:
        if error.transient:
            raise
        return False


def reading_release(version: ModelVersion) -> AbstractContextManager[None]:
    """For a block that fetches a version's artefacts: a RegistryError says where they should be, and how to do without."""
    return registry_errors(f"{version.name} version {version.version}: its release cannot be read", lambda: _do_without(version))


def _do_without(version: ModelVersion) -> str:
    try:
        place = MlflowClient().get_model_version_download_uri(version.name, version.version)
    except MlflowException:
        place = version.source or "an unknown place"
    if not version.aliases:
        return f"its artefacts belong at {place}: bring them back, or promote another release"
    forget = "; ".join(f"c.delete_registered_model_alias({version.name!r}, {alias!r})" for alias in version.aliases)
    return (
        f"its artefacts belong at {place}: bring them back. If they are lost, this takes the alias from the version, and the "
        f'next promotion goes on without it: MLFLOW_TRACKING_URI={mlflow.get_tracking_uri()} python -c "import mlflow; '
        f'c = mlflow.MlflowClient(); {forget}"'
    )


@registry_errors("the registry cannot be asked where a version came from")
def origin_of(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """{"model", "version", "promoted_at", "metrics"}: the means over the test questions that the gate saw.

    ``promoted_at`` is when the version was registered. A later move of the alias, such as a rollback to it, does not change
    it: ``History`` has the moves.

    A run holds the metrics of all versions that have its encoder, so they are taken as they were when this one was registered.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    metrics: dict[str, float] = {}
    run_id = version.run_id or ""
    for key in sorted(client.get_run(run_id).data.metrics) if run_id else ():
        if key.startswith(_METRICS):
            history = client.get_metric_history(run_id, key)
            logged = [(each.timestamp, each.value) for each in history if each.timestamp <= version.creation_timestamp]
            if logged:
                metrics[_AT.sub("@", key.removeprefix(_METRICS))] = max(logged)[1]
    registered_at = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "model": version.name,
        "version": int(version.version),
        "promoted_at": registered_at.isoformat(timespec="seconds"),
        "metrics": metrics,
    }


@registry_errors("the registry cannot be searched")
def with_release(client: MlflowClient, model: str, release: str) -> ModelVersion | None:
    """The newest version of a release (its fingerprint) whose artefacts can be read; None where there is none.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    versions = sorted(client.search_model_versions(f"name = '{model}'"), key=lambda version: -int(version.version))
    return next((found for found in versions if found.tags.get(RELEASE_TAG) == release and has_artefacts(found)), None)


@registry_errors("the registry cannot be searched")
def first_of_encoder(client: MlflowClient, model: str, encoder: str, score: str) -> ModelVersion | None:
    """The oldest version that passed its gate with this encoder and score, and whose release can still be read.

    Args:
        encoder, score: as ``register`` tags them.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    wanted = {ENCODER_TAG: encoder, SCORE_TAG: score, GATE_TAG: PASSED}
    versions = sorted(client.search_model_versions(f"name = '{model}'"), key=lambda version: int(version.version))
    return next((found for found in versions if wanted.items() <= found.tags.items() and has_artefacts(found)), None)
