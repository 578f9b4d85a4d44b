"""What is known of objects that were read before: a table of this machine. It may be deleted at any time: it is made anew."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from uae.corpus.objects import Listing, Object
from uae.io.files import atomic_path

_COLUMNS = pa.schema([("name", pa.binary()), ("size", pa.int64()), ("mark", pa.string()), ("content", pa.string())])


def read_memory(path: Path) -> pa.Table | None:
    """The table, in the order in which it was remembered: name, size, mark, content. None where it is missing or damaged."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return None
    return table if table.schema.equals(_COLUMNS) else None


def same_objects(table: pa.Table, listing: Listing) -> bool:
    """Whether the table is of these very objects, in this order: by columns, because a loop over all costs as much as listing."""
    if len(table) != len(listing.names):
        return False
    now = (listing.names, listing.sizes, listing.marks)
    return all(
        table[field.name].equals(pa.chunked_array([pa.array(column, field.type)]))
        for field, column in zip(_COLUMNS, now, strict=False)
    )


def recall(table: pa.Table | None) -> dict[tuple[bytes, int, str], str]:
    """(name, size, mark) -> what stands for the content; nothing of None."""
    if table is None:
        return {}
    names, sizes, marks, contents = (table[field].to_pylist() for field in _COLUMNS.names)
    return dict(zip(zip(names, sizes, marks, strict=True), contents, strict=True))


def remember(path: Path, known: Iterable[tuple[Object, str]]) -> None:
    """
    Raises:
        ArtefactError: the disk cannot take it.
    """
    rows = [(each.name, each.size, each.mark, content) for each, content in known]
    columns = [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(_COLUMNS)]
    with atomic_path(path) as partial:
        pq.write_table(pa.table(columns, schema=_COLUMNS), partial)
