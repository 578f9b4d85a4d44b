"""A table in mapped files: Arrow reads its columns where they lie, and none of them is in memory as a whole."""

import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from uae.io.files import disk_error


class MappedTable:
    """
    Attributes:
        table: each column in one piece, so that any row is found at once. Strings are ``large_string``: the texts of a column
            may take more than the 2 GiB that ``string`` reaches.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema):
        """Write batches, one after the other, into files that have no name and go with the table.

        Args:
            schema: of the batches: strings, and numbers of whole bytes. No value is null.

        Raises:
            ArtefactError: the disk of temporary files (TMPDIR) cannot take them.
        """
        columns = [_Texts() if pa.types.is_string(kind) else _Numbers(kind) for kind in schema.types]
        rows = 0
        for batch in batches:
            rows += len(batch)
            for column, values in zip(columns, batch.columns, strict=True):
                column.add(values)
        self._mapped = [file for column in columns for file in column.files]
        self.table = pa.table([column.array(rows) for column in columns], names=schema.names)

    def drop_pages(self) -> None:
        """Give back the memory that pages of the files take. Others may read them meanwhile."""
        for file in self._mapped:
            file.drop_pages()


class _File:
    """Bytes that are written once, in a row, and then mapped."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir())
        try:
            self._file: BinaryIO = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed when it is mapped
        except OSError as error:
            raise disk_error(self._folder, error) from error
        self._mapping: mmap.mmap | None = None

    def write(self, data: pa.Buffer) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise disk_error(self._folder, error) from error

    def mapped(self) -> pa.Buffer:
        try:
            self._file.flush()
            if self._file.tell():  # nothing cannot be mapped
                self._mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file.close()
        except OSError as error:
            raise disk_error(self._folder, error) from error
        return pa.py_buffer(b"" if self._mapping is None else self._mapping)

    def drop_pages(self) -> None:
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)


class _Numbers:
    def __init__(self, kind: pa.DataType):
        self._kind, self._width = kind, kind.bit_width // 8
        self.files = [_File()]

    def add(self, values: pa.Array) -> None:
        if len(values):
            self.files[0].write(values.buffers()[1].slice(values.offset * self._width, len(values) * self._width))

    def array(self, rows: int) -> pa.Array:
        return pa.Array.from_buffers(self._kind, rows, [None, self.files[0].mapped()])


class _Texts:
    def __init__(self) -> None:
        self.files = [_File(), _File()]  # where each text ends, and the letters of all
        self._written = 0
        self.files[0].write(pa.py_buffer(np.zeros(1, np.int64)))

    def add(self, values: pa.Array) -> None:
        if not len(values):
            return
        _, ends, letters = values.buffers()
        edges = np.frombuffer(ends, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
        self.files[0].write(pa.py_buffer(edges[1:] - edges[0] + self._written))
        if letters is not None:
            self.files[1].write(letters.slice(edges[0], edges[-1] - edges[0]))
        self._written += int(edges[-1] - edges[0])

    def array(self, rows: int) -> pa.Array:
        ends, letters = (file.mapped() for file in self.files)
        return pa.LargeStringArray.from_buffers(rows, ends, letters)
