"""Reading a source wherever it is: a folder, a file, a data set of the hub, or a prefix of an S3 store."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from uae.corpus.adapters import ADAPTERS
from uae.corpus.mirror import update_mirror
from uae.corpus.objects import is_remote
from uae.corpus.records import Source
from uae.io.errors import ArtefactError, InputError


def read_source(path: str, format: str, mirror: Path | None) -> Source:
    """Read ``path`` as ``format``.

    Args:
        format: a name in ``adapters.ADAPTERS``.
        mirror: a folder for a copy of a source on S3. What is said of a place names the object, not the copy. None: there is no
            place for one.

    Raises:
        InputError: the source is not what it claims to be.
        ArtefactError: a store does not answer.
    """
    read = ADAPTERS[format]
    if not is_remote(path):
        return read(path)
    if mirror is None:
        raise InputError(f"{path}: copy it to this machine first")
    copy = str(update_mirror(path, mirror))

    def named(text: str) -> str:
        return text.replace(copy, path.rstrip("/"))

    try:
        return _renamed(read(copy), named)
    except (InputError, ArtefactError) as error:
        raise type(error)(named(str(error)), transient=error.transient) from None


def _renamed(source: Source, named: Callable[[str], str]) -> Source:
    source.documents.rename(named)
    source.questions = [dataclasses.replace(each, where=named(each.where)) for each in source.questions]
    source.empty = {key: named(where) for key, where in source.empty.items()}
    for reason, places in source.skipped.places.items():
        source.skipped.places[reason] = [named(place) for place in places]
    return source
