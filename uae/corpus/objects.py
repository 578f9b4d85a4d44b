"""The objects of a source: the files of a folder, one file, or what lies under a prefix of an S3 store (through fsspec).

Only names, sizes and times are listed here; nothing is read. How to reach an S3 store (address, keys) stands in the environment
variables of AWS, such as AWS_ENDPOINT_URL, because secrets have no place in params.yaml.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from uae.io.errors import ArtefactError, ConfigError, InputError

S3 = "s3://"

T = TypeVar("T")


class Object(NamedTuple):
    name: bytes  # from the source's folder or prefix, with slashes; the file's own name where the source is one file
    size: int  # bytes
    mark: str  # another one wherever the content may be another: times and inode of a file, the ETag of an object
    changed: float  # seconds since 1970: of the content, or (in a folder) of the name


class Listing(NamedTuple):
    """The objects by name, a column each: for a hundred thousand of them, tuples would cost more than the listing itself."""

    names: list[bytes]
    sizes: list[int]
    marks: list[str]
    times: list[float]  # ``Object.changed``
    single: bool  # the source is one object
    changed: float | None  # when something was last added, changed or (in a folder) removed, seconds since 1970

    @classmethod
    def of(cls, objects: Iterable[Object], single: bool) -> "Listing":
        names, sizes, marks, times = (list(column) for column in zip(*sorted(objects), strict=True))
        return cls(names, sizes, marks, times, single, max(times))

    def objects(self) -> list[Object]:
        return list(map(Object, self.names, self.sizes, self.marks, self.times))


def is_remote(path: str) -> bool:
    return path.startswith(S3)


def is_pinned(path: str) -> bool:
    """Whether the source is a data set of the hub at a revision: it does not change, and is not listed."""
    return path.startswith("hf:")


def list_source(path: str) -> Listing:
    """List what a source holds. Hidden files and folders are passed over, as readers do.

    Raises:
        ArtefactError: there is nothing at ``path``, a folder cannot be read, or the store does not answer (``transient``).
        InputError: an object of a store has a name that no file can have.
    """
    return _list_prefix(path) if is_remote(path) else _list_files(path)


def filesystem() -> Any:
    """The S3 store that the environment names, as fsspec sees it.

    Raises:
        ConfigError: s3fs is not installed.
    """
    try:
        import s3fs
    except ImportError:
        raise ConfigError("a source on S3 needs s3fs: pip install 'uae[s3]'") from None
    # Each look is a new one: a listing that was kept would hide what changed, and a client that was kept, other keys.
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


def explained(path: str, error: BaseException) -> Exception:
    """An error of fsspec as one that a user can act on."""
    if isinstance(error, FileNotFoundError):
        return ArtefactError(f"{path} does not exist: check bucket and prefix")
    if isinstance(error, PermissionError):
        return ArtefactError(f"{path}: the store refuses access ({error}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    said = f"{path}: the store does not answer ({type(error).__name__}: {error}): check AWS_ENDPOINT_URL, or try again later"
    return ArtefactError(said, transient=True)


def store_errors() -> tuple[type[BaseException], ...]:
    """What fsspec lets through where a store refuses, is away or answers late."""
    import asyncio

    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, asyncio.TimeoutError, BotoCoreError, ClientError)


def _list_files(path: str) -> Listing:
    place = Path(path)
    try:
        if place.is_file():
            status = place.stat()
            return Listing.of([Object(os.fsencode(place.name), status.st_size, _mark(status), _changed(status))], True)
        if not place.is_dir():
            raise ArtefactError(f"{place} is neither a file nor a folder" if place.exists() else f"{place} does not exist")
        return _walk(os.fsencode(place))
    except OSError as error:
        raise ArtefactError(f"{error.filename or path} cannot be listed: {error.strerror}") from None


def _walk(root: bytes) -> Listing:
    names: list[bytes] = []
    sizes: list[int] = []
    marks: list[str] = []
    times: list[float] = []
    folders: list[float] = []  # a folder's own time tells of what was removed from it
    left = [(root, b"")]
    while left:
        folder, prefix = left.pop()
        folders.append(_changed(os.stat(folder)))
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b".") or name == b"__pycache__":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    left.append((entry.path, prefix + name + b"/"))
                elif entry.is_file():
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue  # it went between two looks
                    names.append(prefix + name)
                    sizes.append(status.st_size)
                    marks.append(_mark(status))
                    times.append(_changed(status))
    order = sorted(range(len(names)), key=names.__getitem__)

    def by_name(column: list[T]) -> list[T]:
        return [column[place] for place in order]

    changed = max(max(folders), max(times, default=0.0))
    return Listing(by_name(names), by_name(sizes), by_name(marks), by_name(times), False, changed)


def _mark(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def _changed(status: os.stat_result) -> float:
    return status.st_ctime  # the system's own: a copy that keeps a file's old time has a new one here


def _list_prefix(path: str) -> Listing:
    root = path.removeprefix(S3).strip("/")
    if not root:
        raise ConfigError(f"ingest.path={path} names no bucket: s3://BUCKET/PREFIX is meant")
    store = filesystem()
    try:
        found = store.find(root, detail=True)
    except store_errors() as error:
        raise explained(path, error) from None
    objects = []
    for key, told in found.items():
        if key == root:
            objects.append(_object(root.rpartition("/")[2], told))
            continue
        name = key.removeprefix(f"{root}/")
        if name.endswith("/") or told.get("type") == "directory" or _hidden(name):
            continue
        _check_name(path, name)
        objects.append(_object(name, told))
    if not objects:
        raise ArtefactError(f"{path} does not exist, or holds nothing: check bucket and prefix")
    _check_folders(path, {each.name for each in objects})
    return Listing.of(objects, set(found) == {root})


def _object(name: str, told: dict[str, Any]) -> Object:
    return Object(name.encode(), int(told["size"]), str(told["ETag"]).strip('"'), told["LastModified"].timestamp())


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__pycache__" for part in name.split("/"))


def _check_name(path: str, name: str) -> None:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise InputError(f"{path}: no file can have the name of the object {name!r}: rename it, or take it out of the prefix")


def _check_folders(path: str, names: set[bytes]) -> None:
    """A store can hold both ``a`` and ``a/b``; a folder cannot."""
    for name in names:
        parts = name.split(b"/")
        for depth in range(1, len(parts)):
            if (above := b"/".join(parts[:depth])) in names:
                said = f"{path}: {above.decode()!r} is an object, and {name.decode()!r} stands below it as below a folder"
                raise InputError(f"{said}: rename one of them")
