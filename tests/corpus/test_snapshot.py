"""What a source holds now: by content, and only what may have changed is read."""

import os
import shutil
import time
from pathlib import Path

import pytest

import uae.corpus.snapshot
from uae.corpus.snapshot import take_snapshot
from uae.io.errors import ArtefactError
from uae.io.files import sha256_tree

LONG_AGO = 1_000_000.0


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    for name in ("a.md", "deep/b.md", "deep/er/c.md", ".hidden/d.md", "__pycache__/e.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    os.symlink(folder / "deep", folder / "linked")
    return folder


@pytest.fixture
def look(tmp_path, source, monkeypatch):
    """Take a snapshot as if everything were settled: hours after it was written."""

    def look(path=source, later_s: float = 3600.0):
        now = time.time() + later_s
        with monkeypatch.context() as patch:
            patch.setattr(uae.corpus.snapshot.time, "time", lambda: now)
            return take_snapshot(str(path), tmp_path / "memory.parquet")

    return look


def test_the_version_is_the_one_that_earlier_runs_recorded(look, source):
    assert look().version == sha256_tree(source)[:12]
    assert look(source / "a.md").version == sha256_tree(source / "a.md")[:12]


def test_only_what_changed_is_read(look, source):
    assert look().read == 3
    assert look().read == 0
    (source / "a.md").write_text("another")
    assert look().read == 1
    (source / "new.md").write_text("new")
    assert (look().read, look().read) == (1, 0)


def test_a_file_of_the_same_size_and_an_old_time_is_read(look, source):
    """As ``rsync --times`` and unpacked archives leave it."""
    before = look().version
    status = (source / "a.md").stat()
    (source / "a.md").write_text("b.md")
    os.utime(source / "a.md", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look().version != before


def test_a_file_that_was_just_written_is_read_again(look, source):
    """Its next change may fall into the same tick of the clock, and show in no time and no size."""
    look(later_s=0)
    assert look(later_s=0).read == 3


def test_content_that_comes_back_is_the_version_of_before(look, source):
    first = look().version
    (source / "a.md").write_text("another")
    assert look().version != first
    (source / "a.md").write_text("a.md")
    assert look().version == first


def test_a_lost_or_damaged_memory_costs_a_reading_and_nothing_else(look, tmp_path):
    first = look()
    (tmp_path / "memory.parquet").write_bytes(b"no table")
    assert (look().version, look().read) == (first.version, 0)
    (tmp_path / "memory.parquet").unlink()
    assert look() == first


def test_a_look_that_is_cut_short_is_continued_by_the_next(look, monkeypatch):
    hashed = []
    true_hash = uae.corpus.snapshot.sha256_file

    def cut_short(file):
        if len(hashed) == 2:
            raise KeyboardInterrupt
        hashed.append(file)
        return true_hash(file)

    monkeypatch.setattr(uae.corpus.snapshot, "_KEEP_EVERY_S", 0)
    monkeypatch.setattr(uae.corpus.snapshot, "sha256_file", cut_short)
    with pytest.raises(KeyboardInterrupt):
        look()
    monkeypatch.setattr(uae.corpus.snapshot, "sha256_file", true_hash)
    assert look().read == 2  # of three: the second one was not kept yet


def test_the_last_change_is_told_where_something_was_removed(look, source):
    before = look().changed
    time.sleep(0.02)
    (source / "deep/b.md").unlink()
    assert look().changed > before


@pytest.mark.parametrize("times", [(LONG_AGO, LONG_AGO)])
def test_a_file_moved_in_with_an_old_time_changed_now(look, source, tmp_path, times):
    (tmp_path / "old.md").write_text("old")
    os.utime(tmp_path / "old.md", times)
    start = time.time()
    shutil.move(tmp_path / "old.md", source / "old.md")
    assert look().changed >= start - 1


def test_nothing_there_is_an_error(look, tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        look(tmp_path / "nowhere")


def test_a_pinned_source_has_no_snapshot(look):
    assert look("hf:name@revision") is None


def test_names_need_not_be_utf8(look, source):
    with open(os.fsencode(source) + b"/\xff.md", "w") as file:
        file.write("x")
    assert b"\xff.md" in look().contents
    assert look().read == 0
