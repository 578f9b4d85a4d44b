"""Atomic writes and content hashes: what makes a killed stage harmless."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from uae.io.errors import ArtefactError, UaeError

_DISK = "Free some space or fix the permissions"
_KIND = "A file stands where a folder is needed, there or above, or a folder where a file is: move it away or name another place"
_DISK_ERRORS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM), _DISK) | {
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), _KIND),
    errno.ENAMETOOLONG: "Name a place with shorter names",
    errno.ELOOP: "Its links lead in a circle: mend them or name another place",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}  # others may make room again
_TOLD = (*_FULL, errno.EFBIG, errno.EROFS)  # what a text alone is believed of: others it may say of something else
_OVERTAKEN = {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of ``path`` to write a file or a folder at; move it into place on success only.

    Whatever stood at ``path`` stays untouched until the new content is complete. What a killed process left behind
    is removed by the next write to the same path.

    Raises:
        ArtefactError: the disk is full, the folder cannot be written to, or another process replaces the same folder.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        partial = path.parent / f".{path.name}.partial-{os.getpid()}"
        try:
            yield partial
            try:
                _move(partial, path)
            except OSError as error:
                # The new content is there, so the folder that it replaces came or went between two looks.
                if error.errno in _OVERTAKEN and partial.is_dir():
                    raise ArtefactError(
                        f"{path}: another process writes there too; wait for it to end, then run the same command again",
                        transient=True,
                    ) from error
                raise
        finally:
            _remove(partial)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What is raised while ``path`` is written: where the disk or the place is at fault, as an ArtefactError with advice.

    FAISS, safetensors and ONNX tell of a full disk by errors of their own. These are known by their text.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error
    except UaeError:
        raise
    except Exception as error:
        code = next((code for code in _TOLD if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        raise disk_error(path, OSError(code, os.strerror(code))) from error


def disk_error(path: Path, error: OSError) -> Exception:
    """``error`` itself, or an ArtefactError with advice where the disk or the place (not the program) is at fault."""
    if error.errno not in _DISK_ERRORS:
        return error
    return ArtefactError(
        f"cannot write {path}: {error.strerror}. Nothing was changed there. {_DISK_ERRORS[error.errno]}, "
        "then run the same command again: finished stages are not repeated.",
        transient=error.errno in _FULL,
    )


def _move(partial: Path, path: Path) -> None:
    if partial.is_dir() and path.is_dir():
        # A folder cannot be replaced in one call: the old one steps aside first and goes when the new one stands.
        aside = path.parent / f".{path.name}.partial-{os.getpid()}-old"
        os.replace(path, aside)
        try:
            os.replace(partial, path)
        except OSError:
            os.replace(aside, path)
            raise
        shutil.rmtree(aside)
    else:
        os.replace(partial, path)


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.partial-*"):
        pid = int(leftover.name.rsplit("partial-", 1)[1].split("-")[0])
        if pid != os.getpid() and _alive(pid):  # our own number: a dead process had it before us, as in containers
            continue
        if leftover.name.endswith("-old") and not path.exists():
            # Killed between the two renames: the old content is still the valid one.
            with suppress(FileNotFoundError):  # another process has put it back
                os.replace(leftover, path)
        else:
            _remove(leftover)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON artefact of an earlier stage.

    Raises:
        ArtefactError: it is missing, broken, no file, or cannot be read.
    """
    path = Path(path)
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():  # reading a pipe would never end
            raise ArtefactError(f"{path} is no file: remove it, and run the stage that makes it")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: run the stage that makes it first") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is not readable JSON ({error}): delete it and run its stage again") from None


def sha256_bytes(*parts: str | bytes) -> str:
    """Hash parts with their lengths, so that moving a boundary changes the hash."""
    return sha256_parts(parts)


def sha256_parts(parts: Iterable[str | bytes]) -> str:
    """``sha256_bytes`` of parts that come one by one, and need not be in memory together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(path: Path) -> str:
    """Hash of a file, or of a folder's relative names and contents (hidden files and caches left out).

    Raises:
        ArtefactError: there is nothing, what is there is neither a file nor a folder, or a file cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return _hash_of_readable(path)
    if not path.is_dir():
        raise ArtefactError(f"{path} is neither a file nor a folder" if path.exists() else f"{path} does not exist")
    files = sorted(
        (p.relative_to(path).as_posix(), p)
        for p in path.rglob("*")
        if p.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in p.relative_to(path).parts)
    )
    # Names are bytes to the system, and need not be UTF-8.
    return sha256_bytes(*(part for name, p in files for part in (os.fsencode(name), _hash_of_readable(p))))


def _hash_of_readable(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}") from None
