"""One part of the label store: a Parquet file with readings of one provenance, named by the sha256 of its content.

Provenance and format number stand in the file's metadata. A part of an older format is read as one of today's
(``uae.io.tables.migrated``); a part of a newer one is an error that says so.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uae.io import tables as formats
from uae.io.errors import ArtefactError
from uae.io.tables import migrated

KEY = ("question_id", "passage_id", "answer_id", "template", "teacher")  # of a reading: LABELS' columns that tell it from others

UNKNOWN = "unknown"  # the number format where a provenance names none: of a server, or of an earlier version

Provenance = Mapping[str, str | int | float | bool | None]

_PROVENANCE, _FORMAT = b"uae.provenance", b"uae.format"  # keys of the Parquet file's metadata; without the second it is format 1


def content_name(content: bytes | pa.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def encode(table: pa.Table, provenance: str) -> pa.Buffer:
    """The bytes of a part."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_PROVENANCE: provenance} | _stamp()), sink)
    return sink.getvalue()


def decode(part: Path, content: bytes, columns: Sequence[str] | None) -> pa.Table:
    """The columns (None: all) of a part as LABELS has them today, its provenance in the metadata.

    Raises:
        ArtefactError: it is no part of a label store, or a newer version wrote it.
    """
    table = pq.ParquetFile(pa.BufferReader(content)).read()
    kept = table.schema.metadata
    table = migrated(part, table, formats.LABELS, formats.LABELS_SINCE, _format(part, kept))
    return table.replace_schema_metadata(kept).select(columns or formats.LABELS.names)


def provenance_text(provenance: Provenance) -> str:
    """As it stands in a part: equal provenances are equal texts."""
    return json.dumps(dict(provenance), sort_keys=True, allow_nan=False)


def provenance_of(table: pa.Table) -> str:
    """The text of a part's provenance; that of a part of an earlier version is empty JSON."""
    text: bytes = (table.schema.metadata or {}).get(_PROVENANCE, b"{}")
    return text.decode()


def number_format_of(table: pa.Table) -> str:
    """The number format that a part's readings were made in; ``unknown`` where its provenance does not say."""
    found: dict[str, Any] = json.loads(provenance_of(table))
    return str(found.get("dtype", UNKNOWN))


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """All rows, without metadata."""
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables(plain) if plain else formats.LABELS.empty_table()


def keys_of(table: pa.Table) -> list[tuple[str, ...]]:
    """Each row's key, in the order of ``KEY``."""
    return list(zip(*(_strings(table[column]) for column in KEY), strict=True))


def _stamp() -> dict[bytes, bytes]:
    """None for the first format: its parts are named by bytes that hold no number."""
    return {} if formats.LABELS_FORMAT == 1 else {_FORMAT: str(formats.LABELS_FORMAT).encode()}


def _format(part: Path, metadata: Mapping[bytes, bytes] | None) -> int:
    """
    Raises:
        ArtefactError: a newer version wrote the part.
    """
    written = int((metadata or {}).get(_FORMAT, b"1"))
    if written > formats.LABELS_FORMAT:
        raise ArtefactError(
            f"{part} is of format {written} and was written by a newer version of uae; this version reads up to format "
            f"{formats.LABELS_FORMAT}. Install the newer version, or point this project at another label store"
        )
    return written


def _strings(column: pa.ChunkedArray) -> list[str]:
    """Equal strings are one object: of a million keys there are few different templates and passages."""
    encoded = column.dictionary_encode().unify_dictionaries()
    words = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    return [words[index] for chunk in encoded.chunks for index in chunk.indices.to_pylist()]
