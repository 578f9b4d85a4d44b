"""``uae forget``: a deleted document leaves what is served, every older release, labels and vectors; a receipt says so."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uae.io.errors import ArtefactError, InputError, UaeError
from uae.io.files import sha256_bytes, write_json
from uae.pipeline.settings import Settings
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from uae.release.store import ReleaseStore

_READINGS = ("labels", "refreshed_labels", "judgements")  # stores of readings that a run makes
_SEALED_AT = 1 << 16  # readings of a part, where what is left of several is merged
# What this command does not reach, and what does.
_OPEN = (
    "models/release and reports/ hold what their stages made until these run again: dvc repro, make pipeline or uae run",
    "DVC keeps earlier tables, labels and releases: dvc commit, then dvc gc --workspace (with --cloud for the remote)",
    "models/bento and containers built from it: build them again from the present champion (uae package)",
    "logs of queries other than drift.log names, and what MLflow, S3 or a file system backs up",
)


def forget(settings: Settings, w: Workspace, store_folder: Path, source_key: str, who: str) -> dict[str, Any]:
    """Remove a document that is gone from the source, wherever this command reaches, and write a receipt.

    The champion has to be without it first: ``uae refresh`` does that. Texts that other documents of the champion hold, such as a
    licence, stay.

    Args:
        store_folder: of the service's releases. From now on it takes none that holds one of the document's passages.
        source_key: the document's, as hits and tables name it in ``source``.
        who: for the receipt.

    Returns:
        The receipt, which is also a file in ``reports/forgotten``. It holds no text of the document.

    Raises:
        InputError: nothing holds such a document, or there is no champion.
        ArtefactError: the champion still holds it.
        RegistryError: MLflow does not answer.
    """
    from uae.registry.forget import remove_releases
    from uae.registry.tracking import connect
    from uae.registry.versions import release_of, version_of
    from uae.release.forgotten import as_read, passage_texts, remember_forgotten
    from uae.release.store import ReleaseStore
    from uae.vectors.store import VectorStore

    names, store = settings.promote, ReleaseStore(store_folder)
    client = connect(settings.tracking.uri, settings.tracking.experiment, w.root)
    champion = version_of(client, names.model, names.alias)
    if champion is None:
        raise InputError(f"no version of {names.model} is the {names.alias}: nothing is served that could hold {source_key}")
    served = passage_texts(release_of(champion))
    if source_key in served:
        raise ArtefactError(
            f"version {champion.version} ({names.alias}) still holds {source_key}: delete it from the source and run uae "
            "refresh, then uae forget again"
        )
    folders = _releases(client, names.model, store, w)
    gone = set().union(*(passage_texts(folder).get(source_key, ()) for folder in folders)) - set().union(*served.values())
    if not gone:
        raise InputError(f"no release holds texts of {source_key!r} alone: there is nothing to forget (uae release list)")
    read = set().union(*(as_read(folder, gone, [settings.passages.template]) for folder in folders))
    remember_forgotten(store_folder, gone)

    def holds(release: Path) -> bool:
        return any(texts & gone for texts in passage_texts(release).values())

    at = datetime.now(UTC)
    from_store = _clean_store(store, client, champion, holds)
    registered = remove_releases(client, names.model, holds)
    receipt = {
        "source": source_key,
        "at": at.isoformat(timespec="seconds"),
        "who": who,
        "passages": sorted(sha256_bytes(text) for text in gone),
        "releases_in_store": from_store,
        "versions": {"removed": registered.removed, "beyond_reach": registered.beyond_reach},
        "readings": _clean_readings(w, read),
        "vectors": VectorStore(w.vectors).forget(read),
        "queries": _clean_queries(settings.drift.log, source_key),
        "open": list(_OPEN),
    }
    folder = w.path("refresh").parent / "forgotten"
    write_json(folder / f"{at:%Y%m%dT%H%M%S}-{sha256_bytes(source_key)[:8]}.json", receipt)
    return receipt


def _releases(client: "MlflowClient", model: str, store: "ReleaseStore", w: Workspace) -> list[Path]:
    """Every release that can be read: of the service, of the registry, of the workspace."""
    from uae.registry.errors import registry_errors
    from uae.registry.versions import release_of

    found = [each.folder for each in store.installed()]
    found += [path for name in ("release", "refreshed_release") if (path := w.path(name)).exists()]
    with registry_errors(f"the registry cannot be asked for the versions of {model}"):
        versions = client.search_model_versions(f"name = '{model}'")
    for version in versions:
        try:
            found.append(release_of(version))
        except UaeError as error:
            if error.transient:
                raise
    return found


def _clean_store(
    store: "ReleaseStore", client: "MlflowClient", champion: "ModelVersion", holds: Callable[[Path], bool]
) -> list[str]:
    """Have the champion served where the active release has to go, and remove all that do. Returns their fingerprints."""
    from uae.serving.follow import install_version

    concerned = [each for each in store.installed() if holds(each.folder)]
    if any(each.is_active for each in concerned):
        store.activate(install_version(client, champion, store))
    for each in concerned:
        store.remove(each.fingerprint)
    return [each.fingerprint for each in concerned]


def _clean_readings(w: Workspace, read: set[str]) -> dict[str, int]:
    """Readings removed from each store."""
    from uae.teacher.keys import text_key
    from uae.teacher.store import LabelStore

    keys, removed = {text_key(text) for text in read}, {}
    for name in _READINGS:
        if w.path(name).is_dir():
            readings = LabelStore(w.path(name), _SEALED_AT)
            with readings.writing():
                removed[name] = readings.forget(keys)
    return removed


def _clean_queries(log: str | None, source_key: str) -> int:
    """Queries removed from the log that the document answered."""
    from uae.serving.query_log import forget_queries

    return forget_queries(Path(log), sources=[source_key]).queries if log else 0
