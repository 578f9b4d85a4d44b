"""What the suites judge of documents and passages, by parts. Of a passage 5 bytes are in memory, of a document 28."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from uae.io.spill import Spill
from uae.io.tables import DOCUMENTS, PASSAGES, ROWS_AT_ONCE, scan_table
from uae.text.words import count_words
from uae.validation.hashes import hashes_of, twice

Places = npt.NDArray[np.int64]

_DOCUMENTS = 1 << 10  # read together with their texts
_PASSAGES = 1 << 13
_KNOWN, _NAMED, _STANDS = 1, 2, 4  # a passage's flags


class CorpusFacts:
    """A row for each document, and one for each passage. The tables are read when this is made, and again for their rows.

    Args:
        part: rows of a part.

    Raises:
        ArtefactError: as ``scan_table``; the disk of temporary files (TMPDIR) cannot take the documents.
    """

    def __init__(self, documents_path: Path, passages_path: Path, part: int = ROWS_AT_ONCE):
        self._paths, self._part = (documents_path, passages_path), part
        self._documents = documents = _Documents(documents_path)
        self._of_document = np.zeros(len(documents), np.int32)  # how many passages
        self._n_words, self._flags = array("i"), bytearray()
        for rows in scan_table(passages_path, PASSAGES, rows=_PASSAGES):
            self._n_words.extend(map(count_words, rows["text"]))
            codes, doc_ids = pd.factorize(rows["doc_id"])
            places = np.array(documents.find(doc_ids.tolist()), np.int64)[codes]
            np.add.at(self._of_document, places[places >= 0], 1)
            columns = (rows[name] for name in ("title", "source", "start", "end", "text"))
            for place, title, source, start, end, text in zip(places.tolist(), *columns, strict=True):
                if place < 0:
                    self._flags.append(0)
                    continue
                _, *named, whole = documents.at(place)
                stands = _STANDS if whole[start:end] == text else 0
                self._flags.append(_KNOWN | (_NAMED if named == [title, source] else 0) | stands)

    def known_documents(self, doc_ids: Iterable[str]) -> set[str]:
        """Those of the ids that a document has."""
        asked = sorted(set(doc_ids))
        return {doc_id for doc_id, place in zip(asked, self._documents.find(asked), strict=True) if place >= 0}

    def documents(self) -> Iterator[pd.DataFrame]:
        """Columns doc_id, source, ``text`` (its first character that is no white space; a blank text as it is) and
        ``n_passages``.
        """
        return _joined(self._of_documents(), self._part, ["doc_id", "source", "text", "n_passages"])

    def passages(self) -> Iterator[pd.DataFrame]:
        """Columns passage_id, source, ``n_words``, and whether the document is there (``document_known``), has the passage's
        title and source (``named_as_document``), and its text (``text_stands_in_document``).
        """
        names = {"document_known": _KNOWN, "named_as_document": _NAMED, "text_stands_in_document": _STANDS}
        return _joined(self._of_passages(names), self._part, ["passage_id", "source", "n_words", *names])

    def _of_documents(self) -> Iterator[pd.DataFrame]:
        start = 0
        for rows in scan_table(self._paths[0], DOCUMENTS, ["doc_id", "source", "text"], _DOCUMENTS):
            counts = self._of_document[self._documents.of_same_id(start, rows["doc_id"])]
            begun = pd.Series([text.strip()[:1] or text for text in rows["text"]], dtype="str")
            yield rows.assign(text=begun, n_passages=counts.astype(np.int64))
            start += len(rows)

    def _of_passages(self, names: dict[str, int]) -> Iterator[pd.DataFrame]:
        start = 0
        for rows in scan_table(self._paths[1], PASSAGES, ["passage_id", "source"], self._part):
            these = slice(start, start + len(rows))
            flags = np.frombuffer(self._flags[these], np.uint8)
            told = {name: (flags & flag) > 0 for name, flag in names.items()}
            yield rows.assign(n_words=np.array(self._n_words[these], np.int32), **told)
            start += len(rows)


def _joined(frames: Iterable[pd.DataFrame], rows: int, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Frames of at least so many rows, but for the last one. One without rows where there is none."""
    kept, given = list[pd.DataFrame](), False
    for frame in frames:
        kept.append(frame)
        if sum(map(len, kept)) >= rows:
            yield pd.concat(kept, ignore_index=True)
            kept, given = [], True
    if kept or not given:
        yield pd.concat(kept or [pd.DataFrame(columns=columns)], ignore_index=True)


class _Documents:
    """Id, title, source and text of each document, in a file. The table has them in this order, too."""

    def __init__(self, path: Path):
        self._lines, hashes = Spill(), []
        for part in scan_table(path, DOCUMENTS, ["doc_id", "title", "source", "text"], _DOCUMENTS):
            hashes.append(hashes_of(part["doc_id"]))
            for document in part.itertuples(index=False, name=None):
                self._lines.append(json.dumps(document).encode())
        self._twice = twice(hashes)
        unordered = np.concatenate([*hashes, np.zeros(0, np.uint64)])
        self._places = np.argsort(unordered, kind="stable")
        self._hashes = unordered[self._places]
        self.at = lru_cache(maxsize=16)(self._at)  # passages of a document mostly stand together

    def __len__(self) -> int:
        return len(self._lines)

    def find(self, doc_ids: Sequence[str]) -> list[int]:
        """Each document's place in the table: the last of several of one id. -1: there is none."""
        hashes = hashes_of(doc_ids)
        ends = np.searchsorted(self._hashes, hashes, side="right")
        return [self._place(*each) for each in zip(doc_ids, hashes, ends.tolist(), strict=True)]

    def of_same_id(self, start: int, doc_ids: "pd.Series[str]") -> Places:
        """The places that ``find`` gives for the documents from one place on. It looks only where it must."""
        places = np.arange(start, start + len(doc_ids))
        doubtful = np.flatnonzero(np.isin(hashes_of(doc_ids), self._twice))
        places[doubtful] = self.find(doc_ids.iloc[doubtful].tolist())
        return places

    def _place(self, doc_id: str, hashed: np.uint64, end: int) -> int:
        while end and self._hashes[end - 1] == hashed:
            end -= 1
            place = int(self._places[end])
            if self.at(place)[0] == doc_id:
                return place
        return -1

    def _at(self, place: int) -> list[str]:
        found: list[str] = json.loads(self._lines[place])
        return found
