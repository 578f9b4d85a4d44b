"""What is known of objects that were read before: a table of this machine. It may be deleted at any time: it is made anew."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from uae.corpus.objects import Object
from uae.io.files import atomic_path

_COLUMNS = pa.schema([("name", pa.binary()), ("size", pa.int64()), ("mark", pa.string()), ("content", pa.string())])


def recall(path: Path) -> dict[tuple[bytes, int, str], str]:
    """(name, size, mark) -> what stands for the content; nothing where the table is missing or damaged."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    if not table.schema.equals(_COLUMNS):
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
