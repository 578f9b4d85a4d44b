"""One part of the label store: a Parquet file with readings of one provenance, named by the sha256 of its content.

Provenance and format number stand in the file's metadata. A part of an older format is read as one of today's
(``uae.io.tables.migrated``); a part of a newer one is an error that says so. So is one of format 1, whose keys held ids: a store
that is written to takes its readings over (``earlier_keys.py``).
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

KEY = ("question", "passage", "answer_id", "template", "teacher")  # of a reading: LABELS' columns that tell it from others

UNKNOWN = "unknown"  # the number format where a provenance names none: of a server, or of an earlier version

Provenance = Mapping[str, str | int | float | bool | None]

_PROVENANCE, _FORMAT = b"uae.provenance", b"uae.format"  # keys of the Parquet file's metadata; without the second it is format 1
_KEYED_BY_IDS = ("question_id", "passage_id")  # columns of format 1


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
    table = migrated(part, table, formats.LABELS, formats.LABELS_SINCE, _format(part, table.schema))
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


def decode_keyed_by_ids(part: Path) -> pa.Table | None:
    """All of a part of format 1, its provenance in the metadata. None: it is of a later one, or damaged."""
    try:
        table = pq.ParquetFile(part).read() if _FORMAT not in (pq.read_schema(part).metadata or {}) else None
    except (pa.ArrowInvalid, OSError):
        return None
    return table if table is not None and set(_KEYED_BY_IDS) <= set(table.schema.names) else None


def _stamp() -> dict[bytes, bytes]:
    return {_FORMAT: str(formats.LABELS_FORMAT).encode()}


def _format(part: Path, schema: pa.Schema) -> int:
    """
    Raises:
        ArtefactError: a newer version wrote the part, or one whose keys held ids.
    """
    written = int((schema.metadata or {}).get(_FORMAT, b"1"))
    if written > formats.LABELS_FORMAT:
        raise ArtefactError(
            f"{part} is of format {written} and was written by a newer version of uae; this version reads up to format "
            f"{formats.LABELS_FORMAT}. Install the newer version, or point this project at another label store"
        )
    if written == 1 and set(_KEYED_BY_IDS) <= set(schema.names):
        raise ArtefactError(
            f"{part} was written by an earlier version of uae, which kept readings by ids. Run `uae label` (`uae evaluate` for "
            "data/judgements): it takes over what the present texts tell, and asks only for the rest"
        )
    return written


def _strings(column: pa.ChunkedArray) -> list[str]:
    """Equal strings are one object: of a million keys there are few different templates and passages."""
    encoded = column.dictionary_encode().unify_dictionaries()
    words = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    return [words[index] for chunk in encoded.chunks for index in chunk.indices.to_pylist()]
