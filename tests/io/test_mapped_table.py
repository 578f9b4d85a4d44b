"""A table in mapped files: the values that were put in, in one piece, and not in memory."""

import errno
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from uae.io import mapped_table
from uae.io.errors import ArtefactError
from uae.io.mapped_table import MappedTable

SCHEMA = pa.schema([("text", pa.string()), ("at", pa.int64()), ("place", pa.int32())])
TEXTS = ["", "one", "zwei überall", "", "三", "four " * 1000]


def batches(*sizes: int) -> Iterator[pa.RecordBatch]:
    whole = pa.record_batch([pa.array(TEXTS), pa.array(range(10, 16), pa.int64()), pa.array(range(6), pa.int32())], schema=SCHEMA)
    start = 0
    for size in sizes:
        yield whole.slice(start, size)  # of another's memory, as readers of files give them
        start += size


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3), (0, 5, 0, 1), (2,), ()])
def test_values_are_those_of_the_batches(sizes: tuple[int, ...]) -> None:
    table = MappedTable(batches(*sizes), SCHEMA).table
    rows = sum(sizes)
    assert table["text"].to_pylist() == TEXTS[:rows]
    assert table["at"].to_pylist() == list(range(10, 10 + rows))
    assert table["place"].to_pylist() == list(range(rows))
    assert table.schema.types == [pa.large_string(), pa.int64(), pa.int32()]
    table.validate(full=True)
    assert all(column.num_chunks == 1 for column in table.columns)


def test_empty_texts_alone() -> None:
    table = MappedTable([pa.record_batch([pa.array(["", ""])], names=["text"])], pa.schema([("text", pa.string())])).table
    assert table["text"].to_pylist() == ["", ""]


def test_pages_go_and_values_stay(mapped_bytes: Callable[[], int]) -> None:
    schema = pa.schema([("number", pa.int64())])
    numbers = np.arange(1 << 20)
    mapped = MappedTable((pa.record_batch([numbers], schema=schema) for _ in range(8)), schema)  # 64 MB
    before = mapped_bytes()
    column = mapped.table["number"].chunk(0).to_numpy()
    assert column.sum() == 8 * numbers.sum()
    assert mapped_bytes() - before > 1 << 25
    mapped.drop_pages()
    assert mapped_bytes() - before < 1 << 23
    assert column.sum() == 8 * numbers.sum()


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mapped_table.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(ArtefactError, match=f"cannot write {mapped_table.tempfile.gettempdir()}: No space left"):
        MappedTable(batches(6), SCHEMA)
