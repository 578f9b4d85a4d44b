"""Taking releases that hold forgotten passages out of MLflow: their artefacts go, so that no rollback finds them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from uae.io.errors import UaeError
from uae.registry.errors import registry_errors
from uae.registry.versions import release_of

FORGOTTEN_TAG = "uae.forgotten"


class Removed(NamedTuple):
    removed: list[int]  # versions whose release is gone
    lost: list[int]  # that had none any more
    beyond_reach: dict[int, str]  # version -> where its artefacts are: not on this machine's disk


def remove_releases(client: MlflowClient, model: str, holds: Callable[[Path], bool]) -> Removed:
    """Delete the release of every version that holds what has to go. The version and its tags stay, and say so.

    Args:
        holds: of a release's folder.

    Raises:
        RegistryError: MLflow does not answer.
    """
    found = Removed([], [], {})
    with registry_errors(f"the registry cannot be asked for the versions of {model}"):
        versions = sorted(client.search_model_versions(f"name = '{model}'"), key=lambda version: int(version.version))
    for version in versions:
        try:
            release = release_of(version)
        except UaeError as error:
            if error.transient:
                raise
            found.lost.append(int(version.version))
            continue
        if not holds(release):
            continue
        place = _place(client, version)
        if not place.startswith(("file:", "/")):
            found.beyond_reach[int(version.version)] = place
            continue
        shutil.rmtree(Path(unquote(urlparse(place).path)))
        with registry_errors(f"version {version.version} of {model} cannot be marked"):
            client.set_model_version_tag(model, version.version, FORGOTTEN_TAG, "true")
        found.removed.append(int(version.version))
    return found


def _place(client: MlflowClient, version: ModelVersion) -> str:
    """The address of a version's artefacts."""
    with registry_errors(f"the registry cannot say where version {version.version} of {version.name} lies"):
        if version.model_id:
            return str(client.get_logged_model(version.model_id).artifact_location)
        return str(client.get_model_version_download_uri(version.name, version.version))
