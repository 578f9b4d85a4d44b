"""``uae forget``: a deleted document leaves what is served, every older release, labels and vectors; a receipt says so."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uae.io.errors import ArtefactError, InputError
from uae.io.files import read_json, sha256_bytes, write_json
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
    "models/bento and containers built from it: build them again from the present champion (uae package)",
    "logs of queries other than drift.log names, and what MLflow, S3, git or a file system keeps as a backup or an older version",
)
_NO_DVC = "DVC's cache and remotes were not looked into: python -m dagster_project.forget SOURCE_KEY, in the project"


def forget(
    settings: Settings, w: Workspace, store_folder: Path, source_key: str, who: str, in_dvc: bool = False
) -> dict[str, Any]:
    """Remove a document that is gone from the source, wherever this command reaches, and write a receipt.

    The champion has to be without it first: ``uae refresh`` does that. Texts that other documents of the champion hold, such as a
    licence, stay. Releases go last: they are what says which texts the document had, so a call that failed can be made again.

    Args:
        store_folder: of the service's releases. From now on it takes none that holds one of the document's passages.
        source_key: the document's, as hits and tables name it in ``source``.
        who: for the receipt.
        in_dvc: also clean DVC's cache and remotes: the workspace is a DVC project.

    Returns:
        The receipt, which is also a file in ``reports/forgotten``. It holds no text of the document. ``unreached`` says where the
        document may still be. Where an earlier call left nothing to forget, it says that.

    Raises:
        InputError: nothing holds such a document and nothing ever did, or there is no champion.
        ArtefactError: the champion still holds it.
        RegistryError: MLflow does not answer.
    """
    from uae.registry.forget import kept_releases, remove_files, remove_releases
    from uae.registry.tracking import connect
    from uae.registry.versions import release_of, version_of
    from uae.release.forgotten import as_read, passage_texts, remember_forgotten
    from uae.release.store import ReleaseStore
    from uae.text.traces import Traces
    from uae.vectors.store import VectorStore

    names, store = settings.promote, ReleaseStore(store_folder)
    experiment = settings.tracking.experiment
    client = connect(settings.tracking.uri, experiment, w.root)
    champion = version_of(client, names.model, names.alias)
    if champion is None:
        raise InputError(f"no version of {names.model} is the {names.alias}: nothing is served that could hold {source_key}")
    served = passage_texts(release_of(champion))
    if source_key in served:
        raise ArtefactError(
            f"version {champion.version} ({names.alias}) still holds {source_key}: delete it from the source and run uae "
            "refresh, then uae forget again"
        )
    with tempfile.TemporaryDirectory() as scratch:
        registered, unreached = kept_releases(client, names.model, experiment, Path(scratch))
        folders = [*_on_this_disk(store, w), *(each.folder for each in registered)]
        kept = set().union(*served.values())
        gone = set().union(*(passage_texts(folder).get(source_key, ()) for folder in folders)) - kept
        data = _forget_in_dvc(w.root, source_key) if in_dvc else {}
        earlier = _last_receipt(w, source_key)
        if not gone and not data.get("found") and not unreached and not data.get("unreached") and not earlier:
            raise InputError(f"no release holds texts of {source_key!r} alone: there is nothing to forget (uae release list)")
        read = set().union(*(as_read(folder, gone, [settings.passages.template]) for folder in folders))
        remember_forgotten(store_folder, gone)

        def holds(release: Path) -> bool:
            return any(texts & gone for texts in passage_texts(release).values())

        at = datetime.now(UTC)
        cleaned = {
            "readings": _clean_readings(w, read),
            "vectors": VectorStore(w.vectors).forget(read),
            "queries": _clean_queries(settings.drift.log, source_key),
            "backfills": _clean_backfills(w),
        }
        files, left = remove_files(client, experiment, Traces(gone | read, kept=kept)) if gone else ([], [])
        from_store = _clean_store(store, client, champion, holds)
        removed = remove_releases(client, names.model, [each for each in registered if holds(each.folder)])
    standing = [f"{path} of this project holds it, and dvc.lock names that: run the chain (dvc repro), then uae forget again"
                for path in data.get("standing", ())]  # fmt: skip
    # With the releases went the texts: what could not be read then cannot be searched any more.
    unsearched = [*left, *(earlier.get("unsearched", ()) if not gone else ())]
    receipt = {
        "source": source_key,
        "at": at.isoformat(timespec="seconds"),
        "who": who,
        "passages": sorted({*earlier.get("passages", ()), *(sha256_bytes(text) for text in gone)}),
        "releases_in_store": from_store,
        "versions": {"removed": removed.versions, "places": removed.places},
        "files_of_runs": files,
        **cleaned,
        "dvc": {"removed": data.get("removed", {}), "versions": data.get("versions", {})},
        "unsearched": unsearched,
        "unreached": [*unreached, *unsearched, *removed.unreached, *data.get("unreached", ()), *standing],
        "open": [*_OPEN, *([] if in_dvc else [_NO_DVC])],
    }
    write_json(_receipts(w) / f"{at:%Y%m%dT%H%M%S}-{sha256_bytes(source_key)[:8]}.json", receipt)
    return receipt


def _receipts(w: Workspace) -> Path:
    return w.path("refresh").parent / "forgotten"


def _last_receipt(w: Workspace, source_key: str) -> dict[str, Any]:
    """Of an earlier call for this document; {}: there is none."""
    newest_first = sorted(_receipts(w).glob(f"*-{sha256_bytes(source_key)[:8]}.json"), reverse=True)
    return next((found for path in newest_first if (found := read_json(path)).get("source") == source_key), {})


def _on_this_disk(store: "ReleaseStore", w: Workspace) -> list[Path]:
    """The releases of the service and of the workspace."""
    made = [w.path(name) for name in ("release", "refreshed_release")]
    return [*(each.folder for each in store.installed()), *(path for path in made if path.exists())]


def _forget_in_dvc(root: Path, source_key: str) -> dict[str, Any]:
    """``dagster_project.forget`` in a process of its own: ``uae`` imports no DVC (one-way layers).

    Raises:
        ArtefactError: it could not be run, or the project's tables still hold the document.
    """
    command = [sys.executable, "-m", "dagster_project.forget", source_key, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        said = done.stderr.strip()[-800:].removeprefix("error: ")
        raise ArtefactError(f"DVC's cache and remotes cannot be cleaned: {said}. uae forget --no-dvc leaves them as they are")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
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


def _clean_backfills(w: Workspace) -> list[str]:
    """The backfills removed. Any of them may hold the document in a dozen files, and all can be made again."""
    removed = sorted(each.name for each in w.backfills.iterdir()) if w.backfills.is_dir() else []
    for name in removed:
        shutil.rmtree(w.backfills / name)
    return removed


def _clean_queries(log: str | None, source_key: str) -> int:
    """Queries removed from the log that the document answered."""
    from uae.serving.query_log import forget_queries

    return forget_queries(Path(log), sources=[source_key]).queries if log else 0
