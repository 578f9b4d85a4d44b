"""The objects of a source: the files of a folder, one file, or what lies under a prefix of an S3 store (through fsspec).

Only names, sizes and times are listed here; nothing is read. How to reach an S3 store (address, keys) stands in the environment
variables of AWS, such as AWS_ENDPOINT_URL, because secrets have no place in params.yaml.
"""

import os
import re
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from uae.corpus.pages import entries
from uae.io.errors import ArtefactError, ConfigError, InputError

S3 = "s3://"
_HIDDEN = re.compile(r"(?:^|/)(?:\.(?!\.?(?:/|\Z))|__pycache__(?:/|\Z))")
_NO_FILE = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")  # an empty part, or one that leads elsewhere

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
    def by_name(cls, names: list[bytes], sizes: list[int], marks: list[str], times: list[float], least: float = 0.0) -> "Listing":
        """Of objects in any order, where something changed at the time ``least``."""
        order = sorted(range(len(names)), key=names.__getitem__)

        def by_name(column: list[T]) -> list[T]:
            return [column[place] for place in order]

        changed = max(chain([least], times))
        return cls(by_name(names), by_name(sizes), by_name(marks), by_name(times), False, changed)

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
            changed = _changed(status)
            return Listing([os.fsencode(place.name)], [status.st_size], [_mark(status)], [changed], True, changed)
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
    return Listing.by_name(names, sizes, marks, times, max(folders))


def _mark(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def _changed(status: os.stat_result) -> float:
    return status.st_ctime  # the system's own: a copy that keeps a file's old time has a new one here


def _list_prefix(path: str) -> Listing:
    root = path.removeprefix(S3).strip("/")
    if not root:
        raise ConfigError(f"ingest.path={path} names no bucket: s3://BUCKET/PREFIX is meant")
    store = filesystem()
    bucket, key, _ = store.split_path(root)
    prefix = f"{key}/" if key else ""
    try:
        pages = list(entries(store, bucket, prefix))
        if not any(page.keys for page in pages):
            return _list_object(path, store, root)
    except store_errors() as error:
        raise explained(path, error) from None
    keys, sizes, marks, times = (list(chain.from_iterable(column)) for column in zip(*pages, strict=True))
    names = [each[len(prefix) :] for each in keys]
    kept = [place for place, name in enumerate(names) if name and name[-1] != "/" and not _HIDDEN.search(name)]
    if not kept:
        raise _nothing(path)
    for place in kept:
        if _NO_FILE.search(names[place]):
            said = f"{path}: no file can have the name of the object {names[place]!r}"
            raise InputError(f"{said}: rename it, or take it out of the prefix")
    found = Listing.by_name(
        [names[place].encode() for place in kept],
        [sizes[place] for place in kept],
        [marks[place] for place in kept],
        [times[place] for place in kept],
    )
    _check_folders(path, found.names)
    return found


def _list_object(path: str, store: Any, root: str) -> Listing:
    """Of a source that is one object."""
    try:
        told = store.info(root)
    except FileNotFoundError:
        raise _nothing(path) from None
    if told["type"] != "file":  # a bucket; or something came into the prefix just now, and the next look sees it
        raise _nothing(path)
    name, mark, changed = root.rpartition("/")[2].encode(), str(told["ETag"]).strip('"'), told["LastModified"].timestamp()
    return Listing([name], [int(told["size"])], [mark], [changed], True, changed)


def _nothing(path: str) -> ArtefactError:
    return ArtefactError(f"{path} does not exist, or holds nothing: check bucket and prefix")


def _check_folders(path: str, names: list[bytes]) -> None:
    """A store can hold both ``a`` and ``a/b``; a folder cannot."""
    folders = {name.rpartition(b"/")[0] for name in names}
    for folder in list(folders):
        while folder := folder.rpartition(b"/")[0]:
            folders.add(folder)
    if both := min(folders.intersection(names), default=None):
        below = next(name for name in names if name.startswith(both + b"/"))
        said = f"{path}: {both.decode()!r} is an object, and {below.decode()!r} stands below it as below a folder"
        raise InputError(f"{said}: rename one of them")
