"""The store of releases that a service serves from: each under its fingerprint, one of them active.

releases/FINGERPRINT/               a release folder, complete and checked, or not there
releases/FINGERPRINT.origin.json    where it came from, as ``read_origin`` returns it; may be absent
active.json                         {"active": FINGERPRINT, "before": [what rollback goes back to, the last first], "history": []}

A process that changes something holds a lock. A reader needs none, because every file and folder is moved into place complete.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from uae.io.errors import ArtefactError, InputError, UaeError
from uae.io.files import atomic_path, read_json, write_json
from uae.release.forgotten import refuse_forgotten
from uae.release.manifest import read_manifest
from uae.release.open import Release

SHORTEST_PREFIX = 8
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_KEPT_HISTORY = 1000
DOWNLOAD_PREFIX = ".download-"  # of folders in the store that a release is fetched into
_ABANDONED = timedelta(days=1)  # no download takes longer
_ORIGIN = {"model": str, "version": int | str, "promoted_at": str, "metrics": dict}  # any of them may be absent or null


class Active(NamedTuple):
    fingerprint: str
    folder: Path


class Installed(NamedTuple):
    fingerprint: str
    folder: Path
    origin: dict[str, Any] | None
    installed_at: datetime  # UTC
    is_active: bool
    is_before: bool  # what a rollback would go to


class ReleaseStore:
    """A folder of releases. Safe to use from several processes at once."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def install(self, source: Path, origin: dict[str, Any] | None) -> str:
        """Copy a release into the store, unless it is there and intact; it is not activated.

        Args:
            origin: kept beside it, in place of an earlier one; None leaves that.

        Returns:
            Its fingerprint.

        Raises:
            ArtefactError: ``source`` is not a whole release, or holds what was forgotten.
        """
        fingerprint = _checked(read_manifest(source).fingerprint, Path(source) / "manifest.json")
        refuse_forgotten(self.folder, source)
        target = self._place(fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._installing(fingerprint):
            if not self.is_intact(fingerprint):
                with atomic_path(target) as partial:
                    shutil.copytree(source, partial)
                    if read_manifest(partial).fingerprint != fingerprint:
                        raise ArtefactError(f"{source} was changed while it was copied: install it again")
            if origin is not None:
                self.note_origin(fingerprint, origin)
        return fingerprint

    def is_intact(self, fingerprint: str) -> bool:
        """Whether it is installed and every file is what its manifest says."""
        try:
            read_manifest(self.path(fingerprint))
        except UaeError:
            return False
        return True

    def note_origin(self, fingerprint: str, origin: dict[str, Any]) -> None:
        write_origin(self._place(fingerprint), origin)

    def activate(self, fingerprint: str) -> None:
        """Make an installed release the one that is served. It is opened and checked first: hashes, and vectors against encoder.

        Raises:
            ArtefactError: it is not installed, or damaged, or its parts do not belong together. Nothing is changed.
        """
        self._open_once(fingerprint)
        with self._changing():
            state = self._read()
            if state["active"] == fingerprint:
                return
            self.path(fingerprint)  # once more: it may have been pruned while it was checked
            before = [*state["before"], state["active"]] if state["active"] else []
            self._write(fingerprint, before, state["history"], "activate")

    def rollback(self) -> str:
        """Activate the release that was active before; once more, the one before that.

        Returns:
            Its fingerprint.

        Raises:
            InputError: there is none before.
            ArtefactError: that release is gone or damaged. Nothing is changed.
        """
        while True:
            state = self._read()
            if not state["before"]:
                raise InputError(f"{self.folder}: there is no release before this one to go back to")
            target: str = state["before"][-1]
            self._open_once(target)  # before the lock: a rollback must not wait for another's check
            with self._changing():
                if self._read() == state:
                    self.path(target)
                    self._write(target, state["before"][:-1], state["history"], "rollback")
                    return target

    def active(self) -> Active | None:
        """The release to serve; None where nothing was ever activated.

        Its manifest is looked at, its files are not: opening it does that.

        Raises:
            ArtefactError: active.json is broken, or names a release that is missing or another one.
        """
        fingerprint = self._read()["active"]
        return Active(fingerprint, self.path(fingerprint)) if fingerprint else None

    def stamp(self) -> object:
        """Something that changes whenever active.json does, for those who watch it; None while it is not there."""
        path = self.folder / "active.json"
        try:
            with open(path, "rb") as stream:
                return os.fstat(stream.fileno()).st_mtime_ns, stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:  # reading it in earnest will say so
            return str(error)

    def installed(self) -> list[Installed]:
        """All installed releases, the newest first."""
        state = self._read()
        before = state["before"][-1] if state["before"] else None
        return sorted(
            (
                Installed(
                    path.name, path, _origin_if_told(path), _changed_at(path), path.name == state["active"], path.name == before
                )
                for path in self._folders()
            ),
            key=lambda each: (each.installed_at, each.fingerprint),
            reverse=True,
        )

    def find(self, prefix: str) -> str | None:
        """The installed fingerprint that starts with ``prefix``; None where it is no prefix of one.

        Raises:
            InputError: several start so.
        """
        if not re.fullmatch(f"[0-9a-f]{{{SHORTEST_PREFIX},64}}", prefix):
            return None
        found = [path.name for path in self._folders() if path.name.startswith(prefix)]
        if len(found) > 1:
            raise InputError(f"{len(found)} releases in {self.folder} start with {prefix}: name more of the fingerprint")
        return found[0] if found else None

    def prune(self, keep: int) -> list[str]:
        """Remove all but the ``keep`` releases installed last; the active one and the one before always stay.

        Downloads that a killed process left behind go, too.

        Returns:
            The fingerprints removed.
        """
        with self._changing():
            removed = [each.fingerprint for each in self.installed()[keep:] if not each.is_active and not each.is_before]
            state = self._read()
            before = [fingerprint for fingerprint in state["before"] if fingerprint not in removed]
            if before != state["before"]:
                write_json(self.folder / "active.json", state | {"before": before})
            for fingerprint in removed:
                self._remove(fingerprint)
            for left in self.folder.glob(f"{DOWNLOAD_PREFIX}*"):
                if datetime.now(UTC) - _changed_at(left) > _ABANDONED:
                    shutil.rmtree(left, ignore_errors=True)
        return removed

    def remove(self, fingerprint: str) -> None:
        """Remove a release that is not the active one; a rollback does not come to it any more.

        Raises:
            ArtefactError: it is the active one.
        """
        with self._changing():
            state = self._read()
            if state["active"] == fingerprint:
                raise ArtefactError(f"release {fingerprint[:12]} is served: activate another one first (uae release activate)")
            write_json(self.folder / "active.json", state | {"before": [each for each in state["before"] if each != fingerprint]})
            self._remove(fingerprint)

    def path(self, fingerprint: str) -> Path:
        """The folder of an installed release.

        Raises:
            ArtefactError: it is not installed, its manifest is another release's, or something in it leads out of the store.
        """
        path = self._place(_checked(fingerprint, self.folder / "active.json"))
        if not path.is_dir():
            raise ArtefactError(f"{self.folder} holds no release {fingerprint[:12]}: install it first (uae release activate)")
        if links := [each for each in (path, *path.rglob("*")) if each.is_symlink()]:
            raise ArtefactError(
                f"{links[0]} is a link: the store holds files of its own. Remove the release and install it again"
            )
        manifest = read_json(path / "manifest.json")
        found = manifest.get("fingerprint") if isinstance(manifest, dict) else None
        if found != fingerprint:
            raise ArtefactError(f"{path} holds release {str(found)[:12]}, not {fingerprint[:12]}: remove it and install it again")
        return path

    def _remove(self, fingerprint: str) -> None:
        with self._installing(fingerprint):
            path = self._place(fingerprint)
            # It is renamed first. So a kill in between leaves no half release under its name.
            aside = path.with_name(f".{fingerprint}.partial-{os.getpid()}")
            os.replace(path, aside)
            shutil.rmtree(aside)
            _origin_path(path).unlink(missing_ok=True)

    def _place(self, fingerprint: str) -> Path:
        return self.folder / "releases" / fingerprint

    def _folders(self) -> list[Path]:
        releases = self.folder / "releases"
        return [path for path in releases.iterdir() if _FINGERPRINT.fullmatch(path.name)] if releases.is_dir() else []

    def _open_once(self, fingerprint: str) -> None:
        refuse_forgotten(self.folder, self.path(fingerprint))
        # One thread: the service beside us needs the others. In memory, as a service opens it: a container has little else.
        Release(self.path(fingerprint), "cpu", threads=1).close()

    def _changing(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".active.lock")

    def _installing(self, fingerprint: str) -> FileLock:
        return FileLock(self.folder / "releases" / f".{fingerprint}.lock")

    def _read(self) -> dict[str, Any]:
        path = self.folder / "active.json"
        if not path.exists():
            return {"active": None, "before": [], "history": []}
        state = read_json(path)
        if not isinstance(state, dict) or not all(isinstance(state.get(name), list) for name in ("before", "history")):
            raise ArtefactError(f"{path} is not what uae release writes: delete it and activate a release")
        for fingerprint in (state.get("active"), *state["before"]):
            _checked(fingerprint, path)
        return state

    def _write(self, active: str, before: list[str], history: list[dict[str, Any]], action: str) -> None:
        entry = {"release": active, "at": datetime.now(UTC).isoformat(timespec="seconds"), "action": action}
        state = {"active": active, "before": before, "history": [*history, entry][-_KEPT_HISTORY:]}
        write_json(self.folder / "active.json", state)


def write_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Note beside a release folder where it came from, for ``read_origin``."""
    write_json(_origin_path(Path(folder)), origin)


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What is known of where a release folder came from: {"model", "version", "promoted_at", "metrics"}, or None.

    ``promoted_at`` is when the version was registered.

    Raises:
        ArtefactError: what stands there is damaged, or is no such object. A service would stumble over it at each request.
    """
    path = _origin_path(Path(folder))
    if not path.exists():
        return None
    found = read_json(path)
    strange = "what it says" if not isinstance(found, dict) else _strange_in_origin(found)
    if strange is not None:
        raise ArtefactError(
            f"{path}: {strange} is not what uae release writes there: delete the file, or activate the release again"
        )
    origin: dict[str, Any] = found
    return origin


def _origin_if_told(folder: Path) -> dict[str, Any] | None:
    """For a list of releases: a damaged origin of one of them hides none of the others."""
    try:
        return read_origin(folder)
    except ArtefactError:
        return None


def _strange_in_origin(found: Mapping[str, Any]) -> str | None:
    """The first field of another type."""
    return next((repr(name) for name, kind in _ORIGIN.items() if not isinstance(found.get(name), kind | None)), None)


def _origin_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.origin.json")


def _checked(fingerprint: object, where: Path) -> str:
    """A fingerprint becomes a path only after this."""
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        raise ArtefactError(f"{where} names {json.dumps(fingerprint)[:80]}, which is no release's fingerprint (64 hex digits)")
    return fingerprint


def _changed_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_ctime, UTC)
