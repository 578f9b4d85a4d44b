"""One shard: a Parquet file with vectors of one encoder, named by the sha256 of its content, so that damage is seen.

Columns: ``text``, the first 16 bytes of the text's sha256, and ``vector``, float32 numbers, as many in each row. Vectors are
written and read a few thousand at a time: a shard is never in memory whole.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from uae.io.files import atomic_path
from uae.io.mapped import drop_pages

SUFFIX = ".parquet"
_KEY = pa.binary(16)
_ROWS = 1 << 12  # of a row group, and read together: 6 MB of 384 numbers
_BUFFER = 1 << 20  # bytes of a column read together: older shards are one row group

Vectors = npt.NDArray[np.float32]
Keys = npt.NDArray[np.bytes_]  # of 16 bytes each, so that those at the end that NumPy takes for padding tell nothing apart
Rows = npt.NDArray[Any]  # whole numbers


def key_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def keys_of(texts: Iterable[str]) -> Keys:
    """``key_of`` each text."""
    joined = bytearray()
    for text in texts:
        joined += key_of(text)
    return np.frombuffer(joined, dtype="S16")


class Shard:
    """An opened shard.

    Attributes:
        keys: of its texts, shape (n,).
        dimension: numbers of a vector.
    """

    def __init__(self, file: pq.ParquetFile):
        """
        Raises:
            pa.ArrowInvalid, KeyError: it is no shard.
        """
        kind = file.schema_arrow.field("vector").type
        if file.schema_arrow.field("text").type != _KEY or not pa.types.is_fixed_size_list(kind):
            raise KeyError("vector")
        self._file = file
        self.dimension = int(kind.list_size)
        parts = [batch.column(0) for batch in file.iter_batches(columns=["text"], use_threads=False)]
        keys = pa.chunked_array(parts, _KEY).combine_chunks()
        self.keys: Keys = np.frombuffer(keys.buffers()[1] or b"", "S16", len(keys), 16 * keys.offset)

    def copy(self, rows: Rows, target: Vectors, places: Rows) -> None:
        """Copy the vectors of ``rows``, which ascend, to these places of ``target``."""
        first = 0
        for batch in self._file.iter_batches(_ROWS, columns=["vector"], use_threads=False):
            start, end = np.searchsorted(rows, [first, first + len(batch)])
            if end > start:
                column = batch.column(0)
                block = column.flatten().to_numpy().reshape(len(column), self.dimension)
                target[places[start:end]] = block[rows[start:end] - first]
                drop_pages(target)
            first += len(batch)


def write_shard(folder: Path, keys: Keys, vectors: Vectors) -> Path:
    """Seal vectors, shape (n, dim), as one shard of ``folder``. Equal content has one name.

    Raises:
        ArtefactError: the disk cannot take it.
    """
    hashed = _Hashed()
    _write(pa.PythonFile(hashed, mode="w"), keys, vectors)
    path = folder / f"{hashed.name}{SUFFIX}"
    with atomic_path(path) as partial:
        _write(partial, keys, vectors)
    return path


@contextmanager
def open_shard(path: Path) -> Iterator[Shard | None]:
    """None: its content does not match its name, or is no shard.

    Raises:
        FileNotFoundError: it is gone: merged with others, or swept.
    """
    with open(path, "rb") as stream:
        hashed = hashlib.file_digest(stream, "sha256").hexdigest()
        if not hashed.startswith(path.name.removesuffix(SUFFIX)):
            yield None
            return
        stream.seek(0)
        try:
            file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
            shard = Shard(file)
        except (pa.ArrowInvalid, KeyError):
            yield None
            return
        yield shard


def shards_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"[!.]*{SUFFIX}"))


def rows_of(path: Path) -> int:
    """Vectors in a shard, by its footer alone; 0 of a damaged one."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError):
        return 0


def _write(target: Any, keys: Keys, vectors: Vectors) -> None:
    dimension = vectors.shape[1]
    schema = pa.schema([("text", _KEY), ("vector", pa.list_(pa.float32(), dimension))])
    # Random bits: neither compression nor a dictionary would save anything.
    with pq.ParquetWriter(target, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, len(keys), _ROWS):
            part = np.ascontiguousarray(keys[start : start + _ROWS])
            flat = pa.array(np.ascontiguousarray(vectors[start : start + _ROWS], dtype=np.float32).reshape(-1))
            text = pa.Array.from_buffers(_KEY, len(part), [None, pa.py_buffer(part)])
            writer.write_table(pa.table([text, pa.FixedSizeListArray.from_arrays(flat, dimension)], schema=schema))
            drop_pages(vectors)


class _Hashed:
    """A file that keeps nothing but the hash of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self._digest, self._length = hashlib.sha256(), 0

    @property
    def name(self) -> str:
        return self._digest.hexdigest()[:32]

    def write(self, part: Any) -> int:
        self._digest.update(part)
        self._length += len(part)
        return len(part)

    def tell(self) -> int:
        return self._length

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True
