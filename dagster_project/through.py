"""What of the source the whole chain last went through with, also where refreshes have read the source since.

A refresh runs the chain's stages that read, and no others. So dvc.lock looks as after a run that stopped half-way. Before it a
note is kept of what the chain went through with; the note counts while the stages after the reading ones are those of then.
"""

import hashlib
import shutil
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


def keep(root: Path) -> None:
    """To be called before a refresh reads the source. Does nothing where the last that ran was no whole chain."""
    if (through := at_the_end(root)) is None:
        return
    if through.record.exists():
        _record(root).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(_record(root)) as partial:
            shutil.copyfile(through.record, partial)
    lock = Lock(root)
    write_json(_note(root), {"version": through.version, "outputs": {name: lock.outputs(name) for name in READING}})


def _note(root: Path) -> Path:
    return Workspace(root).cache / "went_through.json"


def _record(root: Path) -> Path:
    return Workspace(root).cache / "went_through.parquet"
