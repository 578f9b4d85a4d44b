"""The tables inside a release. They change with the release's format only, whatever columns the pipeline's tables get."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from uae.io.errors import ArtefactError
from uae.io.tables import DOCUMENTS, PASSAGES

RELEASE_DOCUMENTS = pa.schema([DOCUMENTS.field(name) for name in ("doc_id", "source", "title", "version", "metadata")])
RELEASE_PASSAGES = pa.schema(
    [PASSAGES.field(name) for name in ("passage_id", "doc_id", "position", "section", "start", "end", "text")]
)


def read_arrow(path: Path, schema: pa.Schema) -> pa.Table:
    """A table as Arrow holds it: a million rows do not become a million Python objects.

    Raises:
        ArtefactError: missing, damaged, or of another schema.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: build the release again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): build the release again") from error
    if {field.name: field.type for field in table.schema} != {field.name: field.type for field in schema}:
        raise ArtefactError(f"{path} has not the columns of a release: build the release again")
    return table
