"""Sketches of texts, kept in a temporary file: of most documents nobody looks at them again."""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from uae.io.files import disk_error

_IN_MEMORY = 1 << 22  # bytes; more lie in a file
_BYTES = 8  # a number


class Sketches:
    """Rows of numbers of 64 bits. In memory are some 60 bytes a row, however many numbers it has."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="uae-sketches-")  # noqa: SIM115  # it goes with this object
        self._numbers = 0

    def keep(self, numbers: Sequence[int]) -> Sequence[int]:
        """The same numbers, which are read whenever they are asked for.

        Raises:
            ArtefactError: the disk of temporary files (TMPDIR) cannot take them.
        """
        try:
            self._file.seek(_BYTES * self._numbers)
            self._file.write(array("Q", numbers).tobytes())
        except OSError as error:
            raise disk_error(Path(tempfile.gettempdir()), error) from error
        kept = _Kept(self, self._numbers, len(numbers))
        self._numbers += len(numbers)
        return kept

    def read(self, start: int, count: int) -> "array[int]":
        self._file.seek(_BYTES * start)
        return array("Q", self._file.read(_BYTES * count))


class _Kept(Sequence[int]):
    __slots__ = ("_count", "_sketches", "_start")

    def __init__(self, sketches: Sketches, start: int, count: int):
        self._sketches, self._start, self._count = sketches, start, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(self._sketches.read(self._start, self._count))

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        return self._sketches.read(self._start, self._count)[place]
