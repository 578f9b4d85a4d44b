"""Whether a file holds something of a document: a table by its rows, any other text by its words.

Files that are neither, such as an encoder's weights, hold no text. An index of vectors goes with the passages beside it.
"""

import html
import json
from collections.abc import Collection, Iterable
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Of a text: reports show the beginning of some. It is long enough to be no other text's.
_SHOWN = 120
_PARQUET = b"PAR1"
_HEAD = 1 << 13
# Columns that hold words. A table without them may name a document's ids: that is no text, and the ledger of splits does so.
_WORDS = {"text", "answers", "answer"}
_IDS = {"doc_id", "passage_id", "passage_ids", "evidence"}


class Traces:
    """What a document leaves behind."""

    def __init__(self, texts: Collection[str], ids: Collection[str] = (), source: str = "", kept: Iterable[str] = ()):
        """
        Args:
            texts: of its passages, and the whole of it. Tables are searched for all of one, other files for its first words.
            ids: of the document and of its passages. A table that has columns of words and names one of them holds the document:
                questions on it, and answers from it.
            source: its key: a row of this source with a text is the document's. "": no such row is looked for.
            kept: texts of other documents, which may begin with the same words.
        """
        self._source = source
        self._texts, self._ids = pa.array(sorted(texts), pa.string()), pa.array(sorted(ids), pa.string())
        others = "\n".join(kept)
        first = {text if (begun := text[:_SHOWN]) in others else begun for text in texts}
        self._forms = sorted({form.encode() for text in first for form in _forms(text) if form})

    def in_file(self, file: IO[bytes]) -> bool:
        """
        Args:
            file: open at its beginning, and seekable.

        Raises:
            OSError: it cannot be read.
        """
        head = file.read(_HEAD)
        if head.startswith(_PARQUET):
            file.seek(0)
            return self._in_table(file)
        if b"\0" in head:
            return False
        content = head + file.read()
        return any(form in content for form in self._forms)

    def _in_table(self, file: IO[bytes]) -> bool:
        try:
            table = pq.ParquetFile(file)
            found = table.schema_arrow.names
            of_words = bool(_WORDS & set(found))
            return any(self._in_column(name, table, of_words) for name in found)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return False  # no table, whatever its first bytes say

    def _in_column(self, name: str, table: pq.ParquetFile, of_words: bool) -> bool:
        wanted = [self._texts]
        if of_words and name in _IDS:
            wanted.append(self._ids)
        if of_words and name == "source" and self._source:
            wanted.append(pa.array([self._source]))
        looked_for = pa.concat_arrays(wanted)
        if not len(looked_for):
            return False
        for batch in table.iter_batches(columns=[name]):
            column = batch.column(0)
            while pa.types.is_list(column.type):
                column = pc.list_flatten(column)
            if pa.types.is_string(column.type) and pc.any(pc.is_in(column, looked_for)).as_py():
                return True
        return False


def _forms(text: str) -> Iterable[str]:
    """A text as files write it: plain, in JSON, in HTML."""
    yield text
    for ascii_alone in (False, True):
        yield json.dumps(text, ensure_ascii=ascii_alone)[1:-1]
    escaped = html.escape(text)
    yield escaped
    yield escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")  # as Jinja writes them


def texts_of(file: IO[bytes], source: str) -> tuple[set[str], set[str]]:
    """Texts and ids (of documents and passages) that a table has of a source key; none where the file is no such table.

    Raises:
        OSError: it cannot be read.
    """
    head = file.read(len(_PARQUET))
    file.seek(0)
    if head != _PARQUET:
        return set(), set()
    try:
        table = pq.ParquetFile(file)
        names = set(table.schema_arrow.names)
        if not {"source", "doc_id"} <= names:
            return set(), set()
        found = table.read(columns=sorted(names & {"source", "doc_id", "passage_id", "text"}))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return set(), set()
    rows: list[dict[str, Any]] = found.filter(pc.equal(found["source"], source)).to_pylist()
    texts = {row["text"] for row in rows if row.get("text")}
    return texts, {row[name] for row in rows for name in ("doc_id", "passage_id") if row.get(name)}
