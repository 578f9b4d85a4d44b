"""Passages whose texts stay in their table: they are read from it each time that somebody goes through them."""

from array import array
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from uae.io.tables import PASSAGES, count_rows, read_table, scan_table
from uae.text.passage_template import TEXT_ALONE, PassageTemplate

_ROWS = 1 << 13  # whose texts are in memory together
_READ = ("doc_id", "title", "section", "position", "text")


class StoredPassages:
    """The passages of a table, of some documents or of all."""

    def __init__(self, path: Path, documents: Collection[str] | None = None):
        """
        Args:
            documents: doc_ids; None: all.

        Raises:
            ArtefactError: as ``count_rows``.
        """
        self._rows = count_rows(path, PASSAGES)
        self._path, self._documents = path, None if documents is None else frozenset(documents)

    @cached_property
    def ids(self) -> pd.DataFrame:
        """Their columns passage_id and doc_id, in the table's order: 36 bytes each, and no Python object.

        All passage_ids lie in one piece of memory, where ``measures.ranking.compact`` finds them.
        """
        numbers: dict[str, int] = {}
        documents, letters, lengths = array("i"), bytearray(), array("i")
        for part in map(self._kept, scan_table(self._path, PASSAGES, ["passage_id", "doc_id"], _ROWS)):
            ids = [passage_id.encode() for passage_id in part["passage_id"]]
            letters += b"".join(ids)
            lengths.extend(map(len, ids))
            documents.extend(numbers.setdefault(doc_id, len(numbers)) for doc_id in part["doc_id"])
        doc_ids = pd.Categorical.from_codes(np.frombuffer(documents, np.int32), pd.Index(list(numbers), dtype="str"))
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(np.frombuffer(lengths, np.int32), out=ends[1:])
        column = pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(ends), pa.py_buffer(letters))
        return pd.DataFrame({"passage_id": column.to_pandas(), "doc_id": doc_ids})

    def __len__(self) -> int:
        return self._rows if self._documents is None else len(self.ids)

    def texts(self, read_as: PassageTemplate = TEXT_ALONE) -> "StoredTexts":
        """What a model reads of each passage, in the order of ``ids``."""
        return StoredTexts(self, read_as)

    def rows(self, passage_ids: Collection[str], read_as: PassageTemplate = TEXT_ALONE) -> pd.DataFrame:
        """All that PASSAGES has of these passages, and of all others in their documents where ``read_as`` has neighbours."""
        return passages_beside(self._path, passage_ids, read_as.has_neighbours)

    def whole(self) -> pd.DataFrame:
        """All that PASSAGES has of them, in memory."""
        return self._kept(read_table(self._path, PASSAGES))

    def parts(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """All rows of the table, of whatever documents, some at a time."""
        return scan_table(self._path, PASSAGES, columns, _ROWS)

    def documents(self) -> pd.DataFrame:
        """Columns doc_id and source of the table, each document once."""
        return pd.concat([part.drop_duplicates() for part in self.parts(["doc_id", "source"])]).drop_duplicates()

    def of_documents(self, documents: Collection[str]) -> "StoredPassages":
        """Those of the table that are of these documents."""
        return StoredPassages(self._path, documents)

    def asked_of(self, questions: pd.DataFrame, scope: str) -> "StoredPassages":
        """Those that a question may be answered from: in the scope of documents, others are nobody's."""
        return self if scope == "corpus" else self.of_documents(set(questions["doc_id"]))

    def scan(self, whole_documents: bool, columns: Sequence[str] = _READ) -> Iterator[pd.DataFrame]:
        """The passages with what templates read of them, some at a time.

        Args:
            whole_documents: passages that stand together and are of one document come together.
            columns: of PASSAGES, doc_id among them.
        """
        parts = map(self._kept, scan_table(self._path, PASSAGES, columns, _ROWS))
        if not whole_documents:
            yield from parts
            return
        left: list[pd.DataFrame] = []
        for part in parts:
            rows = pd.concat([*left, part], ignore_index=True)
            if rows.empty:
                continue
            others = np.flatnonzero((rows["doc_id"] != rows["doc_id"].iloc[-1]).to_numpy())
            cut = int(others[-1]) + 1 if len(others) else 0  # from there on it is one document, which may go on
            if cut:
                yield rows.iloc[:cut].reset_index(drop=True)
            left = [rows.iloc[cut:]]
        yield from (rest.reset_index(drop=True) for rest in left if len(rest))

    def _kept(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows if self._documents is None else rows[rows["doc_id"].isin(self._documents)].reset_index(drop=True)


class StoredTexts(Collection[str]):
    """One text a passage. It can be gone through any number of times, and holds no text itself."""

    def __init__(self, passages: StoredPassages, read_as: PassageTemplate):
        self._passages, self._read_as = passages, read_as

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[str]:
        return (text for rows in self._passages.scan(self._read_as.has_neighbours) for text in self._read_as.texts(rows))

    def __contains__(self, text: object) -> bool:
        return any(each == text for each in self)

    def at(self, rows: Sequence[int]) -> list[str]:
        """The texts of a few rows, which ascend."""
        wanted = set(rows)
        return [text for row, text in enumerate(self) if row in wanted]


def template_for(template: str, path: Path) -> PassageTemplate:
    """What models read of the passages of a table: the template, without {title} where all their documents have the same one.

    Such a title tells no passage from another, and takes room of what does. The shorter template is what a release keeps: an
    encoder that learnt without titles goes on without, whatever documents come later.

    Raises:
        ConfigError: as ``PassageTemplate``.
        ArtefactError: as ``scan_table``.
    """
    read_as = PassageTemplate(template)
    titles: set[str] = set()
    if read_as.has_title:
        for part in scan_table(path, PASSAGES, ["title"], _ROWS):
            titles.update(title.strip() for title in part["title"].unique())
            if len(titles) > 1:  # as in most corpora, after the first part
                return read_as
    return read_as.without_title() if titles - {""} else read_as


def passages_beside(path: Path, passage_ids: Collection[str], whole_documents: bool = True) -> pd.DataFrame:
    """These passages with all that templates read of them. No other text is kept.

    Args:
        whole_documents: all passages of their documents, too, for templates with neighbours.

    Raises:
        ArtefactError: as ``read_table``.
    """
    column, wanted = "passage_id", set(passage_ids)
    if whole_documents:
        parts = scan_table(path, PASSAGES, ["passage_id", "doc_id"], _ROWS)
        column, wanted = "doc_id", {doc_id for ids in parts for doc_id in ids["doc_id"][ids["passage_id"].isin(wanted)]}
    kept = [rows[rows[column].isin(wanted)] for rows in scan_table(path, PASSAGES, rows=_ROWS)]
    return pd.concat(kept, ignore_index=True) if kept else read_table(path, PASSAGES)
