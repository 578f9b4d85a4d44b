"""The rows of the ledger while ingest runs. What is remembered of texts lies in a file."""

import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from uae.corpus.identity import Content, Sketch
from uae.io.spill import Spill

HASH = "hash"  # decided a split
NOTHING = Content("", array("Q"))
_NO_TEXT = -1


class Entry(NamedTuple):
    """A row of LEDGER."""

    kind: str
    id: str
    source: str
    split: str
    decided: str
    content: str
    sketch: Sketch


class Contents:
    """What is remembered of texts, by numbers. Each is read anew whenever it is asked for."""

    def __init__(self) -> None:
        self._pieces = Spill()

    def append(self, content: Content) -> int:
        """Its number."""
        return self._pieces.append(content.content.encode() + b"\n" + array("Q", content.sketch).tobytes())

    def __getitem__(self, number: int) -> Content:
        if number == _NO_TEXT:
            return NOTHING
        hashed, _, sketch = self._pieces[number].partition(b"\n")
        return Content(hashed.decode(), array("Q", sketch))


class Entries:
    """The entries of one kind, by id, in the order in which they came. In memory are the id and 110 bytes of each."""

    def __init__(self, kind: str, contents: Contents):
        self._kind, self._contents = kind, contents
        self._places: dict[str, int] = {}
        self._sources: list[str] = []
        self._splits: list[str] = []
        self._decided: list[str] = []
        self._numbers = array("i")
        self._new = bytearray()  # whether its hash decided its split in this run
        self._names: dict[str, str] = {}  # what was hashed, where it is not the source

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    def __getitem__(self, id: str) -> Entry:
        place = self._places[id]
        content = self._contents[self._numbers[place]]
        return Entry(self._kind, id, self._sources[place], self._splits[place], self._decided[place], *content)

    def add(self, entry: Entry) -> None:
        """One of an earlier run. The later one of two with an id counts."""
        number = self._contents.append(Content(entry.content, entry.sketch)) if len(entry.sketch) or entry.content else _NO_TEXT
        place = self._put(entry.id, entry.source, entry.split, entry.decided)
        self._numbers[place] = number

    def begin(self, id: str, name: str, source: str, split: str) -> None:
        """A new one, whose split the hash of its name decided."""
        self._new[self._put(id, source, split, HASH)] = True
        if name != source:
            self._names[id] = name

    def _put(self, id: str, source: str, split: str, decided: str) -> int:
        place = self._places.setdefault(id, len(self._places))
        if place == len(self._sources):
            self._sources.append(source)
            self._splits.append(sys.intern(split))
            self._decided.append(sys.intern(decided))
            self._numbers.append(_NO_TEXT)
            self._new.append(False)
        else:
            self._sources[place], self._splits[place], self._decided[place] = source, split, decided
        return place

    def read_as(self, id: str, source: str, number: int | None = None) -> None:
        """Under which source key it stands now, and the number of its content."""
        place = self._places[id]
        self._sources[place] = source
        if number is not None:
            self._numbers[place] = number

    def decide(self, id: str, split: str, decided: str, still_hashed: bool = False) -> None:
        """Another split, or another reason for it.

        Args:
            still_hashed: ``hashed`` goes on to say what it said.
        """
        place = self._places[id]
        self._splits[place], self._decided[place] = sys.intern(split), decided
        if not still_hashed:
            self._new[place] = False

    def hashed(self, id: str) -> str | None:
        """What was hashed, where that decided its split in this run."""
        place = self._places[id]
        return self._names.get(id, self._sources[place]) if self._new[place] else None

    def source(self, id: str) -> str:
        return self._sources[self._places[id]]

    def split(self, id: str) -> str:
        return self._splits[self._places[id]]

    def decided(self) -> Counter[str]:
        """By what splits were decided -> how many."""
        return Counter(self._decided)
