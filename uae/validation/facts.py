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
    counts: Counter[str] = Counter()
    parts = []
    sources: dict[str, int] = {}
    of_source, n_words = array("i"), array("q")
    known, named, stands = bytearray(), bytearray(), bytearray()
    for part in scan_table(passages_path, PASSAGES, rows=_PASSAGES):
        parts.append(part[["passage_id", "doc_id", "start", "end"]])
        counts.update(part["doc_id"])
        of_source.extend(sources.setdefault(source, len(sources)) for source in part["source"])
        n_words.extend(map(count_words, part["text"]))
        columns = (part[name] for name in ("doc_id", "title", "source", "start", "end", "text"))
        for doc_id, title, source, start, end, text in zip(*columns, strict=True):
            document = read.of(doc_id)
            known.append(document is not None)
            named.append(document is not None and document[:2] == [title, source])
            stands.append(document is not None and document[2][start:end] == text)
    passages = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["passage_id", "doc_id", "start", "end"])
    passages["source"] = pd.Categorical.from_codes(np.array(of_source, np.int64), pd.Index(list(sources), dtype=object))
    passages["n_words"] = np.array(n_words, np.int64)
    for name, found in (("document_known", known), ("named_as_document", named), ("text_stands_in_document", stands)):
        passages[name] = np.frombuffer(bytes(found), dtype=bool)
    documents["n_passages"] = [counts[doc_id] for doc_id in documents["doc_id"]]
    return documents, passages


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
