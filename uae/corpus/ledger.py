"""The ledger of splits: which document (or question without one) was ever put in which split. What it says stays.

It is an artefact of ingest that outlives the tables: DVC keeps it through a re-run and versions it with the data, and ``uae run``
keeps it in its folder. Deleted documents stay in it, so that one that comes back finds its split.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

from uae.corpus.identity import Content, Known, Sketch, content_of, recognise
from uae.corpus.splits import fill, split_of
from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.io.spill import Spill
from uae.io.tables import DOCUMENTS, LEDGER, QUESTIONS, read_table, scan_table, write_table

log = logging.getLogger(__name__)

# Kinds of entries. Drawn: the training questions on one piece of evidence, of a source that has no validation questions.
DOCUMENT, QUESTION, DRAWN = "document", "question", "drawn"
# What decided a split. Earlier: a version of this project that had no ledger.
HASH, SOURCE, FILLED, COPIED, EARLIER = "hash", "source", "filled", "copied", "earlier"
_NAMED = 5  # in a warning
_ROWS = 1 << 12  # read at once: each may hold 128 numbers
_NOTHING = Content("", ())


class Entry(NamedTuple):
    """A row of LEDGER."""

    kind: str
    id: str
    source: str
    split: str
    decided: str
    content: str
    sketch: Sketch


class Ledger:
    """
    Args:
        entries: of earlier runs.
        fractions: split -> its share, for what has no split yet. What has one keeps it, whatever the shares are now.
        seed: of the hashes, for what has no split yet.
    """

    def __init__(self, entries: Iterable[Entry], fractions: Mapping[str, float], seed: int):
        self._sketches = Spill()
        kept = (entry._replace(sketch=self._kept(entry.sketch)) if len(entry.sketch) else entry for entry in entries)
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in (DOCUMENT, DRAWN, QUESTION)}
        for entry in kept:
            self._entries.setdefault(entry.kind, {})[entry.id] = entry
        self._fractions, self._seed = fractions, seed
        # kind -> id of an entry that its hash decided in this run -> what was hashed
        self._hashed: dict[str, dict[str, str]] = {kind: {} for kind in self._entries}

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
        write_table(path, LEDGER, (entry._asdict() | {"sketch": list(entry.sketch)} for entry in entries))

    def documents(self, texts: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Take in all documents of the source.

        Args:
            texts: (source key, text) of each. They are read once, one by one.

        Returns:
            source key -> id. The id of a document that was renamed, moved or edited is the one it had.
        """
        known = list(self._entries[DOCUMENT].values())
        present = {key: self._content(text) for key, text in texts}
        found = recognise([Known(entry.source, Content(entry.content, entry.sketch)) for entry in known], present)
        ids: dict[str, str] = {}
        for key in sorted(found):
            place, copied = found.pop(key)
            if place is None or copied:
                ids[key] = self._begin(DOCUMENT, key, self._fractions)
                if place is not None:  # beside its original in one split, or the one would be trained on and the other tested
                    self._hashed[DOCUMENT].pop(ids[key])
                    self._change(DOCUMENT, ids[key], split=known[place].split, decided=COPIED)
            else:
                ids[key] = known[place].id
        kept = set(ids.values())
        for entry in known:
            if entry.source in present and entry.id not in kept:
                self._change(DOCUMENT, entry.id, source="")  # another document has its key now
        for key, id in ids.items():
            content, sketch = present.pop(key)
            self._change(DOCUMENT, id, source=key, content=content, sketch=sketch)
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
        moved = []
        for id, named in sorted(splits.items()):
            entry = self._entries[kind][id]
            split = entry.split if entry.split in named else min(named)
            if self._hashed[kind].pop(id, None) is None and split != entry.split:
                moved.append(f"{entry.source or id} from {entry.split} to {split}")
            self._change(kind, id, split=split, decided=SOURCE)
        if moved:
            more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
            log.warning("the source moves to other splits than the ledger has: %s%s", "; ".join(moved[:_NAMED]), more)

    def fill(self, kind: str, ids: Iterable[str], fractions: Mapping[str, float] | None = None) -> None:
        """Let no split be empty among these, where some of them are new (``uae.corpus.splits.fill``)."""
        names = {self._hashed[kind].get(id, id): id for id in ids}
        decided = {name: self.split(kind, id) for name, id in names.items()}
        movable = [name for name, id in names.items() if id in self._hashed[kind]]
        for name, split in fill(decided, movable, fractions or self._fractions, self._seed).items():
            self._change(kind, names[name], split=split, decided=FILLED)

    def split(self, kind: str, id: str) -> str:
        return self._entries[kind][id].split

    def decisions(self) -> dict[str, int]:
        """What decided the entries' splits -> how many, over all that were ever read."""
        decided = Counter(entry.decided for of_kind in self._entries.values() for entry in of_kind.values())
        return {by: decided[by] for by in (HASH, SOURCE, FILLED, COPIED, EARLIER) if by in decided}

    def _begin(self, kind: str, name: str, fractions: Mapping[str, float]) -> str:
        number = 0
        while (id := _id(kind, name, number)) in self._entries[kind]:
            number += 1  # a document that was renamed since began under this key
        self._entries[kind][id] = Entry(kind, id, "", split_of(name, fractions, self._seed), HASH, *_NOTHING)
        self._hashed[kind][id] = name
        return id

    def _content(self, text: str) -> Content:
        content = content_of(text)
        return content._replace(sketch=self._kept(content.sketch))

    def _kept(self, sketch: Sketch) -> Sketch:
        """The same numbers, which are read whenever they are asked for."""
        return _Kept(self._sketches, self._sketches.append(array("Q", sketch).tobytes()))

    def _change(self, kind: str, id: str, **fields: Any) -> None:
        self._entries[kind][id] = self._entries[kind][id]._replace(**fields)


class _Kept(Sequence[int]):
    """A sketch in a file: of most documents nobody looks at it again."""

    __slots__ = ("_number", "_sketches")

    def __init__(self, sketches: Spill, number: int):
        self._sketches, self._number = sketches, number

    def _read(self) -> "array[int]":
        return array("Q", self._sketches[self._number])

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        return self._read()[place]


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
        Entry(QUESTION, _id(QUESTION, text, 0), "", split, EARLIER, *_NOTHING)
        for text, split in zip(alone["text"], alone["split"], strict=True)
    ]
