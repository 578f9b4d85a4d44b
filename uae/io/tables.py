"""The tables that pass between the rooms: Parquet with declared schemas, checked on every read and write."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from uae.io.errors import ArtefactError
from uae.io.files import atomic_path


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()])


_SECTIONS = pa.list_(pa.struct([("title", pa.string()), ("start", pa.int64()), ("end", pa.int64())]))

DOCUMENTS = _schema(
    doc_id=pa.string(),  # the id in LEDGER: it stays when the document is edited, renamed or moved
    source=pa.string(),  # where it came from: a file, or an id in a file
    title=pa.string(),
    version=pa.string(),  # "" where the source has none
    text=pa.string(),
    sections=_SECTIONS,  # offsets into text, in characters
    metadata=pa.string(),  # a JSON object
)
PASSAGES = _schema(
    passage_id=pa.string(),  # hash of doc_id, section and text, and of a number where a document holds both more than once
    doc_id=pa.string(),
    title=pa.string(),  # of the document, as in DOCUMENTS: what a passage is read with needs no join
    source=pa.string(),  # of the document, as in DOCUMENTS
    position=pa.int32(),  # 0, 1, 2 ... within the document
    section=pa.string(),  # the path of headings above the passage ("Setup > Network"); "" where there is none
    start=pa.int64(),  # offsets into documents.text, in characters
    end=pa.int64(),
    text=pa.string(),
)
QUESTIONS = _schema(
    question_id=pa.string(),  # hash of doc_id and text
    text=pa.string(),
    answers=pa.list_(pa.string()),
    doc_id=pa.string(),  # the scope of retrieval; "" where the question belongs to no document
    evidence=pa.list_(pa.string()),  # passage_ids
    split=pa.string(),  # train, validation or test
    origin=pa.string(),  # human, feedback or synthetic
    source=pa.string(),
)
SOURCE = _schema(  # the objects that ingest read: what the next look at the source is compared with
    path=pa.string(),  # ingest.path
    format=pa.string(),
    name=pa.string(),  # from there
    content=pa.string(),  # hash of a file's content, or an object's ETag
)
LEDGER = _schema(  # of splits: every document, and every question without one, that was ever read
    kind=pa.string(),  # document or question
    id=pa.string(),  # hash of the first source key (of a question: of its text); it stays when the source key changes
    source=pa.string(),  # the present source key; "" for a question, and where another document took the key over
    split=pa.string(),  # train, validation or test
    decided=pa.string(),  # by what: hash, source (it names the split), filled (a split was empty), copied, earlier
    content=pa.string(),  # content hash of the text as it was last read
    sketch=pa.list_(pa.uint64()),  # the smallest hashes of its sentences, ascending
)
CANDIDATES = _schema(
    question_id=pa.string(),
    passage_id=pa.string(),
    source=pa.string(),  # dense, bm25, gold, answer, random or refreshed: the first that brought it in
    rank=pa.int32(),  # 1 is best, by the base encoder within the question's scope
    score=pa.float32(),  # cosine similarity of the base encoder
)
TRAINED_ON = _schema(  # what an encoder learnt from; a release carries it
    kind=pa.string(),  # document or question
    key=pa.string(),  # hash of the source key, or of the question's words
)
# Labels are paid for, and outlive the version that wrote them. Where LABELS gains a column, raise the format, and say in
# LABELS_SINCE what the column is in older parts.
# Format 1 had other keys: uae/teacher/earlier_keys.py.
LABELS_FORMAT = 2
LABELS_SINCE: dict[str, tuple[int, Any]] = {}  # column -> (the format that brought it, what it is in older parts)
LABELS = _schema(
    question=pa.string(),  # hash of its text
    passage=pa.string(),  # hash of what the teacher reads of it; "": the reading without any passage
    answer_id=pa.string(),  # content hash of the answer (or question, or grade), so that an edited answer is a new pair
    template=pa.string(),  # hash of the prompt template
    teacher=pa.string(),  # fingerprint of the teacher's files
    nll_sum=pa.float64(),  # nats, summed over the answer's tokens
    n_tokens=pa.int32(),
    truncated=pa.bool_(),  # the passage was cut to fit the teacher's context
)
RUNS = _schema(
    system=pa.string(),
    question_id=pa.string(),
    passage_ids=pa.list_(pa.string()),  # best first
    scores=pa.list_(pa.float32()),
    metrics=pa.map_(pa.string(), pa.float64()),
    answer=pa.string(),  # what the reader LLM wrote; "" where it was not asked
)


_MADE_FROM = b"uae.made_from"
ROWS_AT_ONCE = 1 << 16  # of a table that are Python objects at a time, and in a row group of its file
_TEXT_AT_ONCE = 1 << 24  # characters, and 32 for each entry of a list: a document may hold as many as thousands of passages
_BUFFER = 1 << 16  # bytes of a column that are read at once


def write_table(
    path: Path,
    schema: pa.Schema,
    rows: pd.DataFrame | Iterable[Mapping[Any, Any]],
    made_from: Mapping[str, str] | None = None,
) -> None:
    """Write rows atomically as Parquet; extra columns are an error, not dropped.

    Args:
        rows: of an iterable, no more than ``ROWS_AT_ONCE`` are in memory together, and little more than ``_TEXT_AT_ONCE``
            characters.
        made_from: name -> hash of what the rows were made from, for ``made_from``.

    Raises:
        ArtefactError: a row does not fit the schema, or the disk cannot take it.
    """
    told = schema
    if made_from is not None:
        told = schema.with_metadata({_MADE_FROM: json.dumps(dict(made_from), sort_keys=True)})
    first = 0
    with atomic_path(path) as partial, pq.ParquetWriter(partial, told) as writer:
        for group in _groups(_records(rows)):
            writer.write_table(as_arrow(path, schema, group, first).cast(told))
            first += len(group)


def _groups(rows: Iterable[Mapping[Any, Any]]) -> Iterator[list[Mapping[Any, Any]]]:
    """The rows of each row group: one at least, also where there is no row."""
    group: list[Mapping[Any, Any]] = []
    given, characters = False, 0
    for row in rows:
        group.append(row)
        characters += sum(
            len(value) * (1 if isinstance(value, str) else 32)
            for value in row.values()
            if isinstance(value, str | list | np.ndarray)
        )
        if len(group) >= ROWS_AT_ONCE or characters >= _TEXT_AT_ONCE:
            yield group
            given, group, characters = True, [], 0
    if group or not given:
        yield group


def made_from(path: Path) -> dict[str, str]:
    """name -> hash of what a table says that it was made from; empty where it does not say.

    Raises:
        ArtefactError: it is damaged.
    """
    try:
        said = (pq.read_schema(path).metadata or {}).get(_MADE_FROM)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): delete it and run its stage again") from error
    found: dict[str, str] = json.loads(said) if said else {}
    return found


def _records(rows: pd.DataFrame | Iterable[Mapping[Any, Any]]) -> Iterable[Mapping[Any, Any]]:
    """Rows one by one. Of a data frame few are Python objects at a time."""
    if not isinstance(rows, pd.DataFrame):
        return rows
    starts = range(0, len(rows), ROWS_AT_ONCE)
    return (row for start in starts for row in rows.iloc[start : start + ROWS_AT_ONCE].to_dict("records"))


def as_arrow(path: Path, schema: pa.Schema, rows: Iterable[Mapping[Any, Any]], first: int = 0) -> pa.Table:
    """Rows for ``path``, checked.

    Args:
        first: the number of the first row, for messages.

    Raises:
        ArtefactError: a row does not fit the schema.
    """
    rows = list(rows)
    for number, row in enumerate(rows, first):
        if set(row) != set(schema.names):
            raise ArtefactError(f"{path}, row {number}: fields {sorted(set(row) ^ set(schema.names))} do not match")
        if empty := [name for name, value in row.items() if value is None]:
            raise ArtefactError(f"{path}, row {number}: {', '.join(empty)} must not be empty")
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ArtefactError(f"{path}: a row does not fit the declared schema: {error}") from error


def migrated(path: Path, table: pa.Table, schema: pa.Schema, since: Mapping[str, tuple[int, Any]], written: int) -> pa.Table:
    """A table of an older format as ``schema`` has it today: columns that came later get their value of before.

    Args:
        since: column -> (the format that brought it, its value in older tables).
        written: the format that the table was written in.

    Raises:
        ArtefactError: it has other columns than its format had.
    """
    later = {name: value for name, (number, value) in since.items() if number > written}
    expected = pa.schema([field for field in schema if field.name not in later])
    if not table.schema.remove_metadata().equals(expected):
        raise ArtefactError(f"{path} has another schema than format {written} of it: move it out of the folder")
    for name, value in later.items():
        table = table.append_column(schema.field(name), pa.array([value] * len(table), schema.field(name).type))
    return table.select(schema.names)


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table written by ``write_table`` (list columns come back as Python lists).

    Args:
        columns: those that are read; None: all. The others cost no memory.

    Raises:
        ArtefactError: missing, damaged, of another schema, or a value is null.
    """
    with _opened(path, schema) as file:
        return _frame(path, file.read(columns=columns), columns or schema.names)


def scan_table(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None, rows: int = ROWS_AT_ONCE
) -> Iterator[pd.DataFrame]:
    """As ``read_table``, in parts of at most so many rows. Only one part is in memory."""
    with _opened(path, schema) as file:
        first = 0
        for batch in file.iter_batches(rows, columns=columns, use_threads=False):
            yield _frame(path, pa.Table.from_batches([batch]), columns or schema.names, first)
            first += len(batch)


def count_rows(path: Path, schema: pa.Schema) -> int:
    """How many rows a table has, by its footer alone. Errors as ``read_table``."""
    with _opened(path, schema) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _opened(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    try:
        # Pre-buffering would keep the bytes of all row groups until the last one is read: in the end the whole file.
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            found = {field.name: field.type for field in file.schema_arrow}
            wanted = {field.name: field.type for field in schema}
            if found != wanted:
                differing = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
                raise ArtefactError(f"{path} has another schema (fields {', '.join(differing)}): run its stage again")
            yield file
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: run the stage that makes it first") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): delete it and run its stage again") from error


def _frame(path: Path, table: pa.Table, names: Sequence[str], first: int = 0) -> pd.DataFrame:
    """Texts stay in Arrow's memory, numbers become 64 bits wide, and only nested columns become Python objects."""
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name]
        if column.null_count:  # another program wrote it: a null id would be counted among somebody else's
            row = first + column.is_null().to_pylist().index(True)
            raise ArtefactError(f"{path}, row {row}: {name} must not be null: run its stage again")
        if pa.types.is_nested(column.type):
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
        elif pa.types.is_integer(column.type):
            columns[name] = column.to_numpy().astype(np.int64)
        elif pa.types.is_floating(column.type):
            columns[name] = column.to_numpy().astype(np.float64)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns, columns=list(names))
