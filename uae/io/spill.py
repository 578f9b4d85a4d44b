"""Pieces of data in a temporary file, for what is read again and need not be in memory meanwhile."""

import tempfile
from array import array
from pathlib import Path

from uae.io.files import disk_error


class Spill:
    """Pieces by their number, from 0. In memory are 8 bytes of each, and all of them while they are few.

    Args:
        in_memory: bytes; more lie in the file, which goes with this object.
    """

    def __init__(self, in_memory: int = 1 << 23):
        self._file = tempfile.SpooledTemporaryFile(in_memory, prefix="uae-")  # noqa: SIM115  # it goes with this object
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, piece: bytes) -> int:
        """Its number.

        Raises:
            ArtefactError: the disk of temporary files (TMPDIR) cannot take it.
        """
        try:
            self._file.seek(self._ends[-1])
            self._file.write(piece)
        except OSError as error:
            raise disk_error(Path(tempfile.gettempdir()), error) from error
        self._ends.append(self._ends[-1] + len(piece))
        return len(self) - 1

    def __getitem__(self, number: int) -> bytes:
        number = range(len(self))[number]
        self._file.seek(self._ends[number])
        return self._file.read(self._ends[number + 1] - self._ends[number])
