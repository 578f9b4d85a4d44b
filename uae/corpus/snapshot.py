"""What a source holds now, by content. A file is read only if its name, size or times say that it may be another.

What was read before is remembered in a table of this machine, which may be deleted at any time: it is made anew by reading.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from uae.corpus.memory import read_memory, recall, remember, same_objects
from uae.corpus.objects import Listing, Object, is_pinned, is_remote, list_source
from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes, sha256_file

# A file can change twice within one tick of the file system's clock, and look the same both times.
_TICK_S = 2.0
_KEEP_EVERY_S = 10.0  # a first look at very much may be cut short: the next one goes on from what was kept


class Snapshot(NamedTuple):
    version: str  # 12 hex digits: another one for other names or contents
    contents: Mapping[bytes, str]  # name -> hash of a file's content, or an object's ETag
    bytes: int
    changed: float  # seconds since 1970: when something was last added, changed or removed
    read: int  # files that had to be read for this


def take_snapshot(path: str, memory: Path) -> Snapshot | None:
    """A snapshot of the source; None for a pinned data set of the hub, which does not change.

    Args:
        memory: a file that remembers what was read, for the next snapshot.

    Raises:
        ArtefactError, InputError: as ``list_source``; or a file cannot be read.
    """
    if is_pinned(path):
        return None
    listing = list_source(path)
    if is_remote(path):  # the store has hashed it
        contents, read = dict(zip(listing.names, listing.marks, strict=True)), 0
    else:
        contents, read = _hashed(path, listing, memory)
    return Snapshot(
        version=_version(listing, contents),
        contents=contents,
        bytes=sum(listing.sizes),
        changed=listing.changed or 0.0,
        read=read,
    )


def _version(listing: Listing, contents: Mapping[bytes, str]) -> str:
    """As ``sha256_tree`` has it, so that the versions of earlier runs still count."""
    if listing.single:
        return next(iter(contents.values()))[:12]
    return sha256_bytes(*(part for name in sorted(contents) for part in (name, contents[name])))[:12]


def _hashed(path: str, listing: Listing, memory: Path) -> tuple[dict[bytes, str], int]:
    table = read_memory(memory)
    if table is not None and same_objects(table, listing):
        return dict(zip(listing.names, table["content"].to_pylist(), strict=True)), 0
    known = recall(table)
    contents: dict[bytes, str] = {}
    settled: list[tuple[Object, str]] = []
    read, kept = 0, time.monotonic()
    for each in listing.objects():
        content = known.get((each.name, each.size, each.mark))
        if content is None:
            now = time.time()
            try:
                content = _hash(Path(path) if listing.single else Path(path, each.name.decode("utf-8", "surrogateescape")))
            except FileNotFoundError:
                continue  # it went after the listing
            read += 1
            if time.monotonic() - kept > _KEEP_EVERY_S:
                remember(memory, settled)
                kept = time.monotonic()
            if now - each.changed > _TICK_S:
                settled.append((each, content))
        else:
            settled.append((each, content))
        contents[each.name] = content
    if read or len(settled) != len(known):
        remember(memory, settled)
    return contents, read


def _hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtefactError(f"{file} cannot be read: {error.strerror}") from None
