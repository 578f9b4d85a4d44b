"""Documents as adapters read them, before they get ids. They lie in a temporary file: texts of a corpus need no memory."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from uae.io.errors import InputError
from uae.io.spill import Spill


class Section(NamedTuple):
    title: str  # the path of headings above it ("Setup > Network"); "" under none
    start: int  # offsets into the document's text, in characters
    end: int


@dataclass(frozen=True)
class RawDocument:
    key: str  # unique within the source
    title: str
    text: str
    sections: tuple[Section, ...]
    where: str  # file and row, for messages
    version: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class RawDocuments:
    """Documents in the order in which they were appended. Each is read anew whenever it is asked for.

    In memory are its key and 8 bytes. A key that was appended twice stands for the first of the two.
    """

    def __init__(self, documents: Iterable[RawDocument] = ()):
        self._lines = Spill()
        self._places: dict[str, int] = {}
        self._twice: int | None = None  # the first that has the key of an earlier one
        self._named: Callable[[str], str] = str
        self += documents

    def append(self, document: RawDocument) -> None:
        """
        Raises:
            InputError: its metadata are no JSON.
            ArtefactError: the disk of temporary files (TMPDIR) cannot take it.
        """
        known = self._places.setdefault(document.key, len(self))
        if known != len(self) and self._twice is None:
            self._twice = len(self)
        values = [document.key, document.title, document.text, document.sections, document.where, document.version]
        self._lines.append(json.dumps([*values, metadata_json(document)]).encode())

    def __iadd__(self, documents: Iterable[RawDocument]) -> "RawDocuments":
        for document in documents:
            self.append(document)
        return self

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: object) -> bool:
        """Whether there is a document with this key."""
        return key in self._places

    @overload
    def __getitem__(self, place: int) -> RawDocument: ...
    @overload
    def __getitem__(self, place: slice) -> list[RawDocument]: ...
    def __getitem__(self, place: int | slice) -> RawDocument | list[RawDocument]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        key, title, text, sections, where, version, metadata = json.loads(self._lines[place])
        return RawDocument(
            key=key,
            title=title,
            text=text,
            sections=tuple(Section(*section) for section in sections),
            where=self._named(where),
            version=version,
            metadata=json.loads(metadata),
        )

    def __iter__(self) -> Iterator[RawDocument]:
        return (self[place] for place in range(len(self)))

    def keys(self) -> Iterable[str]:
        """Different ones, in order."""
        return self._places.keys()

    def of(self, key: str) -> RawDocument:
        """The document with this key. Raises a KeyError where there is none."""
        return self[self._places[key]]

    def twice(self) -> tuple[RawDocument, RawDocument] | None:
        """The first document whose key an earlier one has: the earlier one, and it."""
        if self._twice is None:
            return None
        later = self[self._twice]
        return self.of(later.key), later

    def rename(self, named: Callable[[str], str]) -> None:
        """Have ``named`` say what ``where`` is called."""
        self._named = named


def metadata_json(document: RawDocument) -> str:
    """Its metadata as the table of documents has them.

    Raises:
        InputError: they are no JSON.
    """
    try:
        return json.dumps(document.metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise InputError(f"{document.where}: the metadata of document {document.key!r} are nested too deep") from None
    except ValueError:
        name = next(name for name, value in document.metadata.items() if not _is_finite(value))
        raise InputError(
            f"{document.where}: in the metadata of document {document.key!r} the field {name!r} holds NaN or Infinity, which is "
            "no JSON; leave it out or write null"
        ) from None


def _is_finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
