"""What the suites judge of documents and passages, read part by part: of texts only what a suite asks about them."""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from uae.io.spill import Spill
from uae.io.tables import DOCUMENTS, PASSAGES, scan_table
from uae.text.words import count_words

_DOCUMENTS = 1 << 10  # read together
_PASSAGES = 1 << 13


def read_corpus(documents_path: Path, passages_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each document, and one for each passage.

    Returns:
        Documents: doc_id, source, ``text`` (its first character that is no white space; a blank text as it is) and
        ``n_passages``. Passages: passage_id, doc_id, source, start, end, ``n_words``, and whether the document is there
        (``document_known``), has the passage's title and source (``named_as_document``), and its text
        (``text_stands_in_document``).

    Raises:
        ArtefactError: as ``scan_table``.
    """
    read = _Documents()
    documents = pd.DataFrame(read.rows(documents_path), columns=["doc_id", "source", "text"])
    ids = [pd.Series(dtype="str")]
    doc_numbers, sources = dict[str, int](), dict[str, int]()
    of_document, of_source, n_words = array("i"), array("i"), array("i")
    starts, ends = array("q"), array("q")
    known, named, stands = bytearray(), bytearray(), bytearray()
    for part in scan_table(passages_path, PASSAGES, rows=_PASSAGES):
        ids.append(part["passage_id"])
        of_document.extend(doc_numbers.setdefault(doc_id, len(doc_numbers)) for doc_id in part["doc_id"])
        of_source.extend(sources.setdefault(source, len(sources)) for source in part["source"])
        n_words.extend(map(count_words, part["text"]))
        starts.extend(part["start"])
        ends.extend(part["end"])
        columns = (part[name] for name in ("doc_id", "title", "source", "start", "end", "text"))
        for doc_id, title, source, start, end, text in zip(*columns, strict=True):
            document = read.of(doc_id)
            known.append(document is not None)
            named.append(document is not None and document[:2] == [title, source])
            stands.append(document is not None and document[2][start:end] == text)
    counts = Counter(dict(zip(doc_numbers, np.bincount(np.frombuffer(of_document, np.int32)).tolist(), strict=False)))
    documents["n_passages"] = [counts[doc_id] for doc_id in documents["doc_id"]]
    passages = pd.DataFrame(
        {
            "passage_id": pd.concat(ids, ignore_index=True),
            "doc_id": _numbered(of_document, doc_numbers),
            "start": np.frombuffer(starts, np.int64),
            "end": np.frombuffer(ends, np.int64),
            "source": _numbered(of_source, sources),
            "n_words": np.frombuffer(n_words, np.int32),
            "document_known": np.frombuffer(known, dtype=bool),
            "named_as_document": np.frombuffer(named, dtype=bool),
            "text_stands_in_document": np.frombuffer(stands, dtype=bool),
        }
    )
    return documents, passages


def _numbered(places: "array[int]", numbers: dict[str, int]) -> pd.Categorical:
    """A column of a few texts, each a number: 4 bytes a row.

    Args:
        numbers: text -> its number, ascending from 0.
    """
    return pd.Categorical.from_codes(np.frombuffer(places, np.int32), pd.Index(list(numbers), dtype="str"))


class _Documents:
    """Title, source and text of each document, in a file."""

    def __init__(self) -> None:
        self._lines, self._places = Spill(), dict[str, int]()
        self.of = lru_cache(maxsize=16)(self._of)  # passages of a document mostly stand together

    def rows(self, path: Path) -> Iterator[tuple[str, str, str]]:
        """Take in the table. Gives doc_id, source and the beginning of each text."""
        for part in scan_table(path, DOCUMENTS, ["doc_id", "title", "source", "text"], _DOCUMENTS):
            for doc_id, title, source, text in part.itertuples(index=False, name=None):
                self._places[doc_id] = self._lines.append(json.dumps([title, source, text]).encode())
                yield doc_id, source, text.strip()[:1] or text

    def _of(self, doc_id: str) -> list[str] | None:
        if doc_id not in self._places:
            return None
        found: list[str] = json.loads(self._lines[self._places[doc_id]])
        return found
