"""From MLflow's registry into the store of releases: one version, or whatever an alias points at, as it moves."""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from uae.io.errors import ArtefactError, InputError, UaeError
from uae.io.files import disk_error, read_json, write_json
from uae.registry.tracking import RELEASE_TAG
from uae.registry.versions import origin_of, reading_release, version_numbered, version_of
from uae.release.store import DOWNLOAD_PREFIX, ReleaseStore

_LONGEST_PAUSE_S = 600.0

log = logging.getLogger(__name__)


def registered(client: MlflowClient, model: str, version: str) -> ModelVersion:
    """A version by its number or an alias.

    Raises:
        InputError: there is no such version.
        RegistryError: the registry does not answer.
    """
    found = (version_numbered if version.isdigit() else version_of)(client, model, version)
    if found is None:
        kind = "version" if version.isdigit() else "alias"
        raise InputError(f"{model} has no {kind} {version!r} in the MLflow registry")
    return found


def install_version(client: MlflowClient, version: ModelVersion, store: ReleaseStore) -> str:
    """Bring a version's release into the store, with where it came from. It is fetched only if it is not there.

    Returns:
        Its fingerprint.

    Raises:
        RegistryError: the registry does not answer, or the artefacts are gone.
        ArtefactError: the artefacts are damaged, or not those that were registered.
    """
    name = f"{version.name} version {version.version}"
    origin = origin_of(client, version)
    tag = version.tags.get(RELEASE_TAG, "")
    if store.is_intact(tag):
        store.note_origin(tag, origin)
        return tag
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store.folder, prefix=DOWNLOAD_PREFIX) as scratch:
            with reading_release(version):
                uri = f"models:/{version.name}/{version.version}/artifacts/release"
                fetched = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
            fingerprint = store.install(fetched, origin)
    except OSError as error:
        raise disk_error(store.folder, error) from error
    if tag and fingerprint != tag:
        raise ArtefactError(f"{name} was registered as release {tag[:12]}, but its artefacts are release {fingerprint[:12]}")
    return fingerprint


def follow(
    connect: Callable[[], MlflowClient],
    model: str,
    alias: str,
    store: ReleaseStore,
    every_s: float,
    once: bool,
    announce: Callable[[str], None],
) -> None:
    """Install and activate what the alias points at when it has moved, for ever or ``once``.

    The store keeps what was followed last (followed.json). So a rollback by hand stays until the alias moves again, also after a
    restart. A failure is logged and tried again, after pauses that grow to ten minutes, or are ``every_s`` where that is more.
    An alias that is not there yet is no failure: it is looked for as often as one that is.

    Args:
        connect: makes a client of the registry; may raise RegistryError where that cannot be reached.
        announce: is told of every activation.

    Raises:
        UaeError: of ``once`` only: what failed.
    """
    pause = every_s
    missing = ""
    while True:
        try:
            step(connect(), model, alias, store, announce)
            pause, missing = every_s, ""
        except InputError as error:  # no failure: nothing was promoted yet
            if once:
                raise
            if str(error) != missing:
                log.warning("%s; looked for every %g s", error, every_s)
            pause, missing = every_s, str(error)
        except (UaeError, OSError) as error:
            if once:
                raise
            pause = max(every_s, min(2 * pause, _LONGEST_PAUSE_S))
            log.error("%s@%s not followed, next try in %g s: %s", model, alias, pause, error)
        if once:
            return
        time.sleep(pause)


def step(client: MlflowClient, model: str, alias: str, store: ReleaseStore, announce: Callable[[str], None]) -> bool:
    """Look at the alias once. Whether it had moved, and its release is active now.

    Raises:
        ArtefactError: followed.json is damaged, or the release is.
    """
    version = registered(client, model, alias)
    path, key = store.folder / "followed.json", f"{model}@{alias}"
    followed = read_json(path) if path.exists() else {}
    if not isinstance(followed, dict):
        raise ArtefactError(f"{path} is not what uae release follow writes: delete it, and what the alias points at is activated")
    if followed.get(key) == int(version.version):
        return False
    fingerprint = install_version(client, version, store)
    store.activate(fingerprint)
    write_json(path, followed | {key: int(version.version)})
    announce(f"{model} version {version.version} ({alias}) is active: release {fingerprint[:12]}")
    return True
