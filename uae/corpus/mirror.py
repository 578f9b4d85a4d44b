"""A copy of an S3 prefix on this machine, brought up to date before it is read: only what changed is fetched."""

import os
import shutil
from pathlib import Path

from uae.corpus.memory import read_memory, recall, remember
from uae.corpus.objects import S3, Listing, Object, explained, filesystem, list_source, store_errors
from uae.io.errors import ArtefactError
from uae.io.files import disk_error

_TRIES = 3
_AT_ONCE = 500  # objects that are asked for together


def update_mirror(path: str, folder: Path) -> Path:
    """Make ``folder`` hold what lies under ``path`` now. Returns the folder, or the file in it where ``path`` is one object.

    Raises:
        ArtefactError: the store does not answer, or the source changes faster than it can be copied (both ``transient``); the
            disk cannot take it.
        InputError: as ``list_source``.
    """
    listing = list_source(path)
    for _ in range(_TRIES):
        _copy(path, listing, folder)
        after = list_source(path)
        if after[:3] == listing[:3]:  # names, sizes, marks
            return folder / listing.names[0].decode() if listing.single else folder
        listing = after
    raise ArtefactError(f"{path} changes while it is read: try again when nobody writes to it", transient=True)


def _copy(path: str, listing: Listing, folder: Path) -> None:
    memory = folder.with_name(f"{folder.name}.parquet")
    known, objects = recall(read_memory(memory)), listing.objects()
    sound = [each for each in objects if each[:3] in known and _is_there(folder / each.name.decode(), each)]
    missing = sorted(set(objects) - set(sound))
    try:
        remember(memory, ((each, each.mark) for each in sound))  # a kill from here on leaves files that are fetched once more
        _prune(folder, {each.name.decode() for each in sound})
        _fetch(path, missing, listing.single, folder)
        remember(memory, ((each, each.mark) for each in objects))
    except OSError as error:
        raise disk_error(folder, error) from error


def _is_there(file: Path, each: Object) -> bool:
    return file.is_file() and file.stat().st_size == each.size


def _prune(folder: Path, kept: set[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if Path(place, name).relative_to(folder).as_posix() not in kept:
                Path(place, name).unlink()
        if Path(place) != folder and not any(Path(place).iterdir()):
            shutil.rmtree(place)


def _fetch(path: str, missing: list[Object], single: bool, folder: Path) -> None:
    store, root = filesystem(), path.removeprefix(S3).strip("/")
    for start in range(0, len(missing), _AT_ONCE):
        names = [each.name.decode() for each in missing[start : start + _AT_ONCE]]
        keys = [root if single else f"{root}/{name}" for name in names]
        try:
            store.get(keys, [str(folder / name) for name in names])
        except FileNotFoundError:
            return  # it went since the listing: the next one says so
        except store_errors() as error:
            raise explained(path, error) from None
