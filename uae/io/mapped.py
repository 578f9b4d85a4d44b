"""Arrays in mapped files that are gone through without staying in memory.

Pages of a mapped file that were touched count as memory of the process until the system wants them back, which may be never. So
whoever goes through a large one gives its pages back behind itself.
"""

import ctypes
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uae.io.files import disk_error

Numbers = npt.NDArray[Any]

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def temporary(folder: Path, shape: Sequence[int], kind: npt.DTypeLike) -> Numbers:
    """Zeros in a mapped file of ``folder`` that has no name, and goes with the array.

    Raises:
        ArtefactError: the disk cannot take it.
    """
    kind, shape = np.dtype(kind), tuple(shape)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserved now: a disk that is full when a page is written ends the process without a word.
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * kind.itemsize)
            return np.asarray(np.memmap(file, dtype=kind, mode="r+", shape=shape))
    except OSError as error:
        raise disk_error(folder, error) from error


def drop_pages(array: Numbers) -> None:
    """Give back the memory that pages of a mapped array take. What was written to them stays: the file has it.

    An array that lies in memory is left as it is, so whoever walks through one need not ask. Another thread may use it meanwhile.

    Args:
        array: or a part of it. All pages of the mapping are given back, those of other parts, too.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode == "c":  # what was written there is nowhere else
            return
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


def drop_pages_of(path: Path) -> None:
    """The same for all mappings of a file by libraries, such as FAISS: those that share its pages, and none with copies."""
    held = path.stat()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, rights, _, device, inode, *_ = line.split(maxsplit=5)
        major, minor = (int(part, 16) for part in device.split(":"))
        if rights[3] == "s" and int(inode) == held.st_ino and os.makedev(major, minor) == held.st_dev:
            start, end = (int(part, 16) for part in span.split("-"))
            _LIBC.madvise(start, end - start, mmap.MADV_DONTNEED)
