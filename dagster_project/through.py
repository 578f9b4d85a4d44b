"""What of the source the whole chain last went through with, also where refreshes have read the source since.

A refresh runs the chain's stages that read, and no others. So what lies here looks as after a run that stopped half-way, whether
Dagster, ``uae refresh`` or ``dvc repro validate`` read the source. Whoever looks while a chain is whole keeps a note of what it
went through with. The note counts while the stages after the reading ones are those of then. Where nobody looked in time, DVC's
cache still has what dvc.lock names.
"""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dagster_project.lock import Lock
from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, read_json, write_json
from uae.pipeline.chain import CHAIN
from uae.pipeline.refresh import READING
from uae.pipeline.workspace import ARTEFACTS, Workspace


class Through(NamedTuple):
    version: str  # of the source; of a pinned one its path
    record: Path  # the table of its objects as they were then


def last_through(root: Path) -> Through | None:
    """What the chain last went through with, whatever was read since. None: it never did, or it stopped after reading."""
    return keep(root) or before_refreshes(root) or _as_locked(root)


def at_the_end(root: Path) -> Through | None:
    """Of a chain that nothing was run after."""
    lock, workspace = Lock(root), Workspace(root)
    report = workspace.path("ingestion")
    if not lock.went_through(CHAIN) or not report.exists():
        return None
    if hashlib.md5(report.read_bytes()).hexdigest() != lock.outputs("ingest").get(ARTEFACTS["ingestion"]):
        return None  # ingest ran, and was not recorded
    read = read_json(report).get("source", {})
    version: str | None = read.get("version") or read.get("path")
    return Through(version, workspace.path("source")) if version else None


def before_refreshes(root: Path) -> Through | None:
    """Of a chain after which refreshes read the source."""
    try:
        note: dict[str, Any] = read_json(_note(root))
    except ArtefactError:
        return None
    record = _record(root)
    if not record.exists() or not Lock(root).went_through(CHAIN, instead=note["outputs"]):
        return None
    return Through(note["version"], record)


def promoted_source(root: Path) -> str | None:
    """The version of the source that was last promoted from this folder, "" where that is not known any more.

    A decision that was refused leaves what was served before. None: nothing was ever promoted.
    """
    workspace = Workspace(root)
    made = {name: workspace.path(name) for name in ("refresh", "promotion") if workspace.path(name).exists()}
    if not made:
        return None
    latest = max(made, key=lambda name: made[name].stat().st_mtime_ns)
    decision = read_json(made[latest])
    if not decision["promoted"]:
        return None if decision.get("champion") is None else ""
    if latest == "refresh":
        return decision.get("source") or ""
    through = at_the_end(root)
    return through.version if through else ""


def keep(root: Path) -> Through | None:
    """Note what the chain went through with, for when something reads the source by itself. None: the last was no whole chain."""
    if (through := at_the_end(root)) is None:
        return None
    lock = Lock(root)
    note = {"version": through.version, "outputs": {name: lock.outputs(name) for name in READING}}
    with suppress(ArtefactError):
        if read_json(_note(root)) == note:
            return through
    if through.record.exists():
        _record(root).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(_record(root)) as partial:
            shutil.copyfile(through.record, partial)
    write_json(_note(root), note)
    return through


def _as_locked(root: Path) -> Through | None:
    """As dvc.lock has it, where the source was read and nothing was recorded: the files of then are in DVC's cache."""
    from dvc.repo import Repo

    lock = Lock(root)
    made = lock.outputs("ingest")
    if not lock.went_through(CHAIN) or not (root / ".dvc").is_dir():
        return None
    with Repo(str(root)) as repo:
        report, record = (Path(repo.cache.local.oid_to_path(made[ARTEFACTS[name]])) for name in ("ingestion", "source"))
    if not report.exists() or not record.exists():
        return None
    read = read_json(report).get("source", {})
    version: str | None = read.get("version") or read.get("path")
    return Through(version, record) if version else None


def _note(root: Path) -> Path:
    return Workspace(root).cache / "went_through.json"


def _record(root: Path) -> Path:
    return Workspace(root).cache / "went_through.parquet"
