"""Taking releases that hold forgotten passages out of MLflow, and files of runs: no rollback finds them, and nobody reads them.

It is the same for artefacts on this disk, in S3 and behind MLflow's server: all go through MLflow's own artefact repositories.
"""

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from uae.io.errors import UaeError, without_user_info
from uae.registry.errors import registry_errors
from uae.registry.history import history_of
from uae.registry.tracking import FORGOTTEN_TAG
from uae.text.traces import Traces

_RELEASE = "artifacts/release"  # below a logged model
_PAGE = 100
_OF_WORDS = (".json", ".jsonl", ".html", ".txt", ".csv", ".md", ".parquet")  # what we log to runs, and tables


class KeptRelease(NamedTuple):
    """A release that MLflow keeps."""

    place: str  # the address of its artefacts
    folder: Path  # of its tables and its manifest, on this disk; what else it has may not be there
    versions: list[int]  # of the registered model: none where a promotion was killed before it registered


class Removed(NamedTuple):
    versions: list[int]  # whose release is gone
    places: list[str]  # addresses that were emptied: also of releases that no version names
    unreached: list[str]  # sentences


def kept_releases(client: MlflowClient, model: str, experiment: str, scratch: Path) -> tuple[list[KeptRelease], list[str]]:
    """All releases that MLflow has artefacts of, and sentences on those that cannot be read. Tables alone are fetched.

    Args:
        scratch: a folder for what does not lie on this disk.

    Raises:
        RegistryError: MLflow does not answer.
    """
    found, unreached = [], []
    for place, versions in _places(client, model, experiment).items():
        try:
            with registry_errors(f"what lies at {place} cannot be read"):
                folder = _fetch(get_artifact_repository(place), place, scratch)
        except UaeError as error:
            if error.transient:
                raise
            unreached.append(str(error))
            continue
        if folder is not None:
            found.append(KeptRelease(place, folder, versions))
    return found, unreached


def remove_releases(client: MlflowClient, model: str, releases: Collection[KeptRelease]) -> Removed:
    """Delete the artefacts of these releases. Versions and their tags stay, and say so.

    Raises:
        RegistryError: MLflow does not answer.
    """
    done = Removed([], [], [])
    for release in releases:
        try:
            with registry_errors(f"the release at {release.place} cannot be removed"):
                repository = get_artifact_repository(release.place)
                _delete(repository, None)
                left = list(_files(repository, None))  # a store may go on listing folders that hold nothing
        except UaeError as error:
            done.unreached.append(str(error))
            continue
        if left:
            done.unreached.append(f"{release.place} still holds {len(left)} files after they were deleted: remove them there")
            continue
        for number in release.versions:
            with registry_errors(f"version {number} of {model} cannot be marked"):
                client.set_model_version_tag(model, str(number), FORGOTTEN_TAG, "true")
        done.versions.extend(release.versions)
        done.places.append(without_user_info(release.place))
    return Removed(sorted(done.versions), sorted(done.places), done.unreached)


def remove_files(client: MlflowClient, experiment: str, traces: Traces) -> tuple[list[str], list[str]]:
    """Delete the files of runs that hold a text: examples of a training, evaluations, pages. The runs and their figures stay.

    Args:
        experiment: its name; the history beside it is searched, too.

    Returns:
        ``run/file`` of what was removed, and sentences on what could not be.

    Raises:
        RegistryError: MLflow does not answer.
    """
    removed, unreached = [], []
    for run_id, place in _runs(client, experiment):
        try:
            with registry_errors(f"files of the run {run_id} at {place} cannot be read or removed"):
                repository = get_artifact_repository(place)
                for file in _files(repository, None):
                    if PurePosixPath(file).suffix in _OF_WORDS and _holds(repository, file, traces):
                        _delete(repository, file)
                        removed.append(f"{run_id}/{file}")
        except UaeError as error:
            if error.transient:
                raise
            unreached.append(str(error))
    return sorted(removed), unreached


def _places(client: MlflowClient, model: str, experiment: str) -> dict[str, list[int]]:
    """Address of the artefacts -> versions, of all models that were logged or registered."""
    found: dict[str, list[int]] = {}
    of_model: dict[str, str] = {}
    with registry_errors(f"the registry cannot be asked for the releases of {model}"):
        known = client.get_experiment_by_name(experiment)
        token = None
        while known is not None:
            page = client.search_logged_models([known.experiment_id], max_results=_PAGE, page_token=token)
            for logged in page:
                found.setdefault(str(logged.artifact_location), [])
                of_model[logged.model_id] = str(logged.artifact_location)
            if not (token := page.token):
                break
        for version in client.search_model_versions(f"name = '{model}'"):
            place = of_model.get(version.model_id or "")
            if place is None and version.model_id:
                place = str(client.get_logged_model(version.model_id).artifact_location)
            if place is None:
                place = str(client.get_model_version_download_uri(version.name, version.version))
            found.setdefault(place, []).append(int(version.version))
    return found


def _fetch(repository: ArtifactRepository, place: str, scratch: Path) -> Path | None:
    """The folder of a release's manifest and tables; None where there is no release any more."""
    files = [each.path for each in repository.list_artifacts(_RELEASE) if not each.is_dir]
    if not files:
        return None
    if _is_here(place):
        return _download(repository, _RELEASE, None)  # where it lies: nothing is copied
    target = Path(tempfile.mkdtemp(dir=scratch))
    for file in files:
        _download(repository, file, target)
    return target / _RELEASE


def _holds(repository: ArtifactRepository, file: str, traces: Traces) -> bool:
    with tempfile.TemporaryDirectory() as scratch, open(_download(repository, file, Path(scratch)), "rb") as stream:
        return traces.in_file(stream)


def _download(repository: ArtifactRepository, path: str, target: Path | None) -> Path:
    found: str = repository.download_artifacts(path, str(target) if target else None)  # type: ignore[no-untyped-call]
    return Path(found)


def _delete(repository: ArtifactRepository, path: str | None) -> None:
    repository.delete_artifacts(path)  # type: ignore[no-untyped-call]


def _is_here(place: str) -> bool:
    return place.startswith(("file:", "/"))


def _runs(client: MlflowClient, experiment: str) -> Iterator[tuple[str, str]]:
    """Id and address of the artefacts of each run, of the experiment and of its history."""
    for name in (experiment, history_of(experiment)):
        with registry_errors(f"MLflow cannot be asked for the runs of {name}"):
            known = client.get_experiment_by_name(name)
        token = None
        while known is not None:
            with registry_errors(f"MLflow cannot be asked for the runs of {name}"):
                page = client.search_runs([known.experiment_id], max_results=_PAGE, page_token=token)
            yield from ((str(run.info.run_id), str(run.info.artifact_uri)) for run in page)
            if not (token := page.token):
                break


def _files(repository: ArtifactRepository, below: str | None) -> Iterator[str]:
    entries: list[FileInfo] = repository.list_artifacts(below)
    for entry in entries:
        if entry.is_dir:
            yield from _files(repository, entry.path)
        else:
            yield entry.path
