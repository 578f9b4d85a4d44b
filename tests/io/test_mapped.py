"""Large arrays in files: walked through without staying in memory, and never losing a number."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from uae.io.errors import ArtefactError
from uae.io.mapped import drop_pages, drop_pages_of, temporary

_BYTES = 1 << 26


def test_pages_go_and_numbers_stay(tmp_path: Path, mapped_bytes: Callable[[], int]) -> None:
    array = temporary(tmp_path, (_BYTES // 4096, 1024), np.float32)
    assert not list(tmp_path.iterdir())
    before = mapped_bytes()
    array[:] = 1.5
    assert mapped_bytes() - before > _BYTES // 2
    drop_pages(array[5:7].T)  # any part, however it is turned
    assert mapped_bytes() - before < _BYTES // 8
    assert (array == 1.5).all()


def test_a_library_s_mapping_is_found_by_its_file(tmp_path: Path, mapped_bytes: Callable[[], int]) -> None:
    path, other = tmp_path / "a file", tmp_path / "another"
    for each in (path, other):
        np.ones(_BYTES, np.uint8).tofile(each)
    mapped, kept = np.memmap(path, np.uint8, "r"), np.memmap(other, np.uint8, "r")
    before = mapped_bytes()
    assert mapped.sum() == kept.sum() == _BYTES
    drop_pages_of(path)
    assert _BYTES // 2 < mapped_bytes() - before < _BYTES * 3 // 2  # the other's stay
    assert mapped.sum() == _BYTES


def test_what_is_in_memory_alone_is_left(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.zeros(1 << 16, np.uint8).tofile(path)
    copied = np.memmap(path, np.uint8, "c")
    copied[:] = 3
    for array in (copied, copied[5:], np.asarray(copied)[5:].reshape(1, -1), np.full(1 << 16, 3, np.uint8)):
        drop_pages(array)
        drop_pages_of(path)
        assert (array == 3).all()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtefactError, match=str(tmp_path)):
        temporary(tmp_path, (4, 4), np.float32)
