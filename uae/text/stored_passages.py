"""Passages whose texts stay in their table: they are read from it each time that somebody goes through them."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pandas as pd

from uae.io.tables import PASSAGES, read_table, scan_table
from uae.text.passage_template import TEXT_ALONE, PassageTemplate

_ROWS = 1 << 13  # whose texts are in memory together


class StoredPassages:
    """The passages of a table, of some documents or of all.

    Attributes:
        ids: their columns passage_id and doc_id, in the table's order.
    """

    def __init__(self, path: Path, documents: Collection[str] | None = None):
        """
        Args:
            documents: doc_ids; None: all.

        Raises:
            ArtefactError: as ``read_table``.
        """
        self._path, self._documents = path, documents
        self.ids = self._kept(read_table(path, PASSAGES, ["passage_id", "doc_id"]))

    def texts(self, read_as: PassageTemplate = TEXT_ALONE) -> "StoredTexts":
        """What a model reads of each passage, in the order of ``ids``."""
        return StoredTexts(self, read_as)

    def scan(self) -> Iterator[pd.DataFrame]:
        """The passages with what templates read of them, some at a time."""
        columns = ["doc_id", "title", "section", "text"]
        return map(self._kept, scan_table(self._path, PASSAGES, columns, _ROWS))

    def _kept(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows if self._documents is None else rows[rows["doc_id"].isin(self._documents)].reset_index(drop=True)


class StoredTexts(Collection[str]):
    """One text a passage. It can be gone through any number of times, and holds no text itself."""

    def __init__(self, passages: StoredPassages, read_as: PassageTemplate):
        self._passages, self._read_as = passages, read_as

    def __len__(self) -> int:
        return len(self._passages.ids)

    def __iter__(self) -> Iterator[str]:
        return (text for rows in self._passages.scan() for text in self._read_as.texts(rows))

    def __contains__(self, text: object) -> bool:
        return any(each == text for each in self)
