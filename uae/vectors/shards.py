"""One shard: a Parquet file with vectors of one encoder, named by the sha256 of its content, so that damage is seen.

Columns: ``text``, the first 16 bytes of the text's sha256, and ``vector``, float32 numbers, as many in each row.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from uae.io.files import atomic_path

SUFFIX = ".parquet"
_KEY = pa.binary(16)

Vectors = npt.NDArray[np.float32]


class Shard(NamedTuple):
    keys: list[bytes]  # ``key_of`` each text
    vectors: Vectors  # shape (n, dim)


def key_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def write_shard(folder: Path, keys: Sequence[bytes], vectors: Vectors) -> Path:
    """Seal vectors, shape (n, dim), as one shard of ``folder``. Equal content has one name.

    Raises:
        ArtefactError: the disk cannot take it.
    """
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table({"text": pa.array(keys, _KEY), "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)  # random bits: neither would save anything
    content = sink.getvalue()
    path = folder / f"{_name(content)}{SUFFIX}"
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return path


def read_shard(path: Path) -> Shard | None:
    """None: its content does not match its name, or is no shard.

    Raises:
        FileNotFoundError: it is gone: merged with others, or swept.
    """
    content = path.read_bytes()
    if _name(content) != path.name.removesuffix(SUFFIX):
        return None
    try:
        table = pq.read_table(pa.BufferReader(content)).combine_chunks()
        keys, vectors = table["text"], table["vector"].combine_chunks()
    except (pa.ArrowInvalid, KeyError):
        return None
    if keys.type != _KEY or not pa.types.is_fixed_size_list(vectors.type):
        return None
    return Shard(keys.to_pylist(), vectors.flatten().to_numpy().reshape(len(vectors), vectors.type.list_size))


def shards_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"[!.]*{SUFFIX}"))


def rows_of(path: Path) -> int:
    """Vectors in a shard, by its footer alone; 0 of a damaged one."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError):
        return 0


def _name(content: bytes | pa.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
