"""The tables inside a release. They change with the release's format only, whatever columns the pipeline's tables get."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from uae.io.errors import ArtefactError
from uae.io.mapped_table import MappedTable
from uae.io.tables import DOCUMENTS, PASSAGES

RELEASE_DOCUMENTS = pa.schema([DOCUMENTS.field(name) for name in ("doc_id", "source", "title", "version", "metadata")])
RELEASE_PASSAGES = pa.schema(
    [PASSAGES.field(name) for name in ("passage_id", "doc_id", "position", "section", "start", "end", "text")]
)
_ROWS = 1 << 13  # that are in memory together


def read_arrow(path: Path, schema: pa.Schema) -> pa.Table:
    """A table as Arrow holds it: a million rows do not become a million Python objects.

    Raises:
        ArtefactError: missing, damaged, or of another schema.
    """
    with _told(path):
        table = pq.read_table(path)
    _check(path, table.schema, schema)
    return table


def map_arrow(path: Path, schema: pa.Schema) -> MappedTable:
    """The same in temporary files: no more than a few thousand rows of it are in memory.

    Raises:
        ArtefactError: as ``read_arrow``; or a value is null, or the disk of temporary files (TMPDIR) cannot take it.
    """
    return MappedTable(_batches(path, schema), schema)


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    # Pre-buffering would keep the bytes of all row groups until the last one is read: in the end the whole file.
    with _told(path), pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
        _check(path, file.schema_arrow, schema)
        for batch in file.iter_batches(_ROWS, columns=schema.names, use_threads=False):
            batch = batch.select(schema.names)
            for name, column in zip(schema.names, batch.columns, strict=True):
                if column.null_count:
                    raise ArtefactError(f"{path} has rows without {name}: build the release again")
            yield batch


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What Arrow cannot read is named."""
    try:
        yield
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: build the release again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): build the release again") from error


def _check(path: Path, found: pa.Schema, schema: pa.Schema) -> None:
    if {field.name: field.type for field in found} != {field.name: field.type for field in schema}:
        raise ArtefactError(f"{path} has not the columns of a release: build the release again")
