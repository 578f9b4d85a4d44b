"""Pieces come back as they were, whether they lie in memory or in a file."""

import errno
import tempfile

import pytest

from uae.io.errors import ArtefactError
from uae.io.spill import Spill


@pytest.mark.parametrize("in_memory", [1, 1 << 20])
def test_pieces_come_back_in_any_order(in_memory: int) -> None:
    spill, pieces = Spill(in_memory), [b"lamp", b"", b"\0\xff", b"bell" * 1000]
    assert [spill.append(piece) for piece in pieces] == [0, 1, 2, 3]
    assert [spill[number] for number in (3, 0, 2, 1)] == [pieces[number] for number in (3, 0, 2, 1)]
    assert spill.append(b"later") == 4
    assert (len(spill), spill[4], spill[-1], spill[0]) == (5, b"later", b"later", b"lamp")
    with pytest.raises(IndexError):
        spill[5]


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill()

    def full(data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spill._file, "write", full)
    with pytest.raises(ArtefactError, match=tempfile.gettempdir()):
        spill.append(b"lamp")
