"""The ledger of splits: which document (or question without one) was ever put in which split. What it says stays.

It is an artefact of ingest that outlives the tables: DVC keeps it through a re-run and versions it with the data, and ``uae run``
keeps it in its folder. Deleted documents stay in it, so that one that comes back finds its split.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from uae.corpus.entries import HASH, NOTHING, Contents, Entries, Entry
from uae.corpus.identity import Content, Known, content_of, recognise
from uae.corpus.splits import fill, split_of
from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.io.tables import DOCUMENTS, LEDGER, QUESTIONS, read_table, scan_table, write_table

log = logging.getLogger(__name__)

# Kinds of entries. Drawn: the training questions on one piece of evidence, of a source that has no validation questions.
DOCUMENT, QUESTION, DRAWN = "document", "question", "drawn"
# What else than its hash decided a split. Earlier: a version of this project that had no ledger.
SOURCE, FILLED, COPIED, EARLIER = "source", "filled", "copied", "earlier"
_NAMED = 5  # in a warning
_ROWS = 1 << 12  # read at once: each may hold 128 numbers


class Ledger:
    """
    Args:
        entries: of earlier runs.
        fractions: split -> its share, for what has no split yet. What has one keeps it, whatever the shares are now.
        seed: of the hashes, for what has no split yet.
    """

    def __init__(self, entries: Iterable[Entry], fractions: Mapping[str, float], seed: int):
        self._contents = Contents()
        self._entries = {kind: Entries(kind, self._contents) for kind in (DOCUMENT, DRAWN, QUESTION)}
        for entry in entries:
            self._entries.setdefault(entry.kind, Entries(entry.kind, self._contents)).add(entry)
        self._fractions, self._seed = fractions, seed

    @classmethod
    def read(cls, path: Path, documents_path: Path, questions_path: Path, fractions: Mapping[str, float], seed: int) -> "Ledger":
        """The ledger at ``path``. Where there is none, the splits of the tables that an earlier version made are taken over.

        Raises:
            ArtefactError: it is damaged.
        """
        if not path.exists():
            return cls(_of_tables(documents_path, questions_path), fractions, seed)
        rows = (row for part in scan_table(path, LEDGER, rows=_ROWS) for row in part.itertuples(index=False, name=None))
        return cls(map(Entry._make, rows), fractions, seed)

    def write(self, path: Path) -> None:
        entries = (of_kind[id] for _, of_kind in sorted(self._entries.items()) for id in sorted(of_kind))
        # Numbers of an array: as Python's they would be five times as large.
        write_table(path, LEDGER, (entry._asdict() | {"sketch": np.array(entry.sketch, np.uint64)} for entry in entries))

    def documents(self, texts: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Take in all documents of the source.

        Args:
            texts: (source key, text) of each. They are read once, one by one.

        Returns:
            source key -> id. The id of a document that was renamed, moved or edited is the one it had.
        """
        entries = self._entries[DOCUMENT]
        known = list(entries)
        numbers = {key: self._contents.append(content_of(text)) for key, text in texts}
        found = recognise(_Remembered(entries, known), _Present(numbers, self._contents))
        ids: dict[str, str] = {}
        for key in sorted(numbers):
            place, copied = found.get(key, (None, False))
            if place is None or copied:
                ids[key] = self._begin(DOCUMENT, key, self._fractions)
                if place is not None:  # beside its original in one split, or the one would be trained on and the other tested
                    entries.decide(ids[key], entries.split(known[place]), COPIED)
            else:
                ids[key] = known[place]
        kept = set(ids.values()) if known else set()
        for id in known:
            if entries.source(id) in numbers and id not in kept:
                entries.read_as(id, source="")  # another document has its key now
        for key, id in ids.items():
            entries.read_as(id, key, numbers[key])
        return ids

    def unit(self, kind: str, name: str, fractions: Mapping[str, float] | None = None) -> str:
        """Take in what is no document and is known by ``name``. Returns its id.

        Args:
            fractions: other shares than the ledger's own.
        """
        id = _id(kind, name, 0)
        return id if id in self._entries[kind] else self._begin(kind, name, fractions or self._fractions)

    def given(self, kind: str, splits: Mapping[str, set[str]]) -> None:
        """Record what the source says: id -> the splits that it names. It wins; a warning says so where a split changes."""
        moved, entries = [], self._entries[kind]
        for id, named in sorted(splits.items()):
            before = entries.split(id)
            split = before if before in named else min(named)
            if entries.hashed(id) is None and split != before:
                moved.append(f"{entries.source(id) or id} from {before} to {split}")
            entries.decide(id, split, SOURCE)
        if moved:
            more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
            log.warning("the source moves to other splits than the ledger has: %s%s", "; ".join(moved[:_NAMED]), more)

    def fill(self, kind: str, ids: Iterable[str], fractions: Mapping[str, float] | None = None) -> None:
        """Let no split be empty among these, where some of them are new (``uae.corpus.splits.fill``)."""
        hashed = {id: self._entries[kind].hashed(id) for id in ids}
        names = {id if name is None else name: id for id, name in hashed.items()}
        decided = {name: self.split(kind, id) for name, id in names.items()}
        movable = [name for name, id in names.items() if hashed[id] is not None]
        for name, split in fill(decided, movable, fractions or self._fractions, self._seed).items():
            self._entries[kind].decide(names[name], split, FILLED, still_hashed=True)

    def split(self, kind: str, id: str) -> str:
        return self._entries[kind].split(id)

    def decisions(self) -> dict[str, int]:
        """What decided the entries' splits -> how many, over all that were ever read."""
        decided = sum((entries.decided() for entries in self._entries.values()), Counter[str]())
        return {by: decided[by] for by in (HASH, SOURCE, FILLED, COPIED, EARLIER) if by in decided}

    def _begin(self, kind: str, name: str, fractions: Mapping[str, float]) -> str:
        number = 0
        while (id := _id(kind, name, number)) in self._entries[kind]:
            number += 1  # a document that was renamed since began under this key
        self._entries[kind].begin(id, name, name if kind == DOCUMENT else "", split_of(name, fractions, self._seed))
        return id


class _Remembered(Sequence[Known]):
    """Documents of earlier runs. Of most of them nobody looks at the sketch again."""

    def __init__(self, entries: Entries, ids: Sequence[str]):
        self._entries, self._ids = entries, ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> Known: ...
    @overload
    def __getitem__(self, place: slice) -> "_Remembered": ...
    def __getitem__(self, place: int | slice) -> "Known | _Remembered":
        if isinstance(place, slice):
            return _Remembered(self._entries, self._ids[place])
        entry = self._entries[self._ids[place]]
        return Known(entry.source, Content(entry.content, entry.sketch))


class _Present(Mapping[str, Content]):
    """Documents of the source: source key -> what is remembered of the text, read whenever it is asked for."""

    def __init__(self, numbers: Mapping[str, int], contents: Contents):
        self._numbers, self._contents = numbers, contents

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __getitem__(self, key: str) -> Content:
        return self._contents[self._numbers[key]]


def _id(kind: str, name: str, number: int) -> str:
    return sha256_bytes(kind, name, *([str(number)] if number else []))[:24]


def _of_tables(documents_path: Path, questions_path: Path) -> list[Entry]:
    try:
        questions = read_table(questions_path, QUESTIONS)
        splits = dict(zip(questions["doc_id"], questions["split"], strict=True))
        entries = [
            Entry(DOCUMENT, _id(DOCUMENT, source, 0), source, splits[doc_id], EARLIER, *content_of(text))
            for part in scan_table(documents_path, DOCUMENTS, ["doc_id", "source", "text"], _ROWS)
            for doc_id, source, text in part.itertuples(index=False, name=None)
            if doc_id in splits
        ]
    except ArtefactError:
        return []
    alone = questions[questions["doc_id"] == ""]
    return entries + [
        Entry(QUESTION, _id(QUESTION, text, 0), "", split, EARLIER, *NOTHING)
        for text, split in zip(alone["text"], alone["split"], strict=True)
    ]
