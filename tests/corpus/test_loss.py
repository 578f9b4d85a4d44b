"""A source that lost much of what it held is not read before a person says that this is meant."""

import shutil
from pathlib import Path

import pytest

from uae.corpus.ingest import ingest
from uae.corpus.loss import confirm, lost, too_much
from uae.corpus.repeated_questions import RepeatRule
from uae.corpus.watch import Watch
from uae.io.errors import ConfigError, InputError

SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for n in range(10):
        (folder / f"{n}.md").write_text(f"# Lamp {n}\n\nLamp {n} burns oil of the kind {n}.\n")
    (folder / "questions.jsonl").write_text('{"question": "What burns?", "answers": ["oil"], "document": "9.md"}\n')
    return folder


@pytest.fixture
def read(tmp_path, source):
    """Ingest the source; returns its watch."""

    def read(format="folder", path=None) -> Watch:
        out = tmp_path / "out"
        watch = Watch(str(path or source), format, out / "source.parquet", tmp_path / "cache", 0.2)
        tables = [out / f"{name}.parquet" for name in ("documents", "passages", "questions", "ledger")]
        rule = RepeatRule(drop=False, scope="document", near_duplicate=0.8)
        ingest(watch.path, format, *tables, out / "ingest.json", None, 40, SPLIT, 13, rule, watch=watch)
        return watch

    return read


def remove(source, count):
    for n in range(count):
        (source / f"{n}.md").unlink()


def test_little_may_go_without_a_word(read, source):
    read()
    remove(source, 2)
    assert len(read().before) == 9


def test_much_needs_a_word_and_nothing_is_written_before(read, source):
    watch = read()
    before = watch.record.read_bytes()
    remove(source, 5)
    with pytest.raises(InputError, match=r"5 of 11 objects of the source are gone \(45%; more than 20%.*0.md, 1.md.*confirm"):
        read()
    assert watch.record.read_bytes() == before
    confirm(watch.look().version, "me", "they are old", watch.confirmations)
    assert len(read().before) == 6


def test_a_word_holds_for_the_content_that_was_seen(read, source):
    watch = read()
    remove(source, 5)
    confirm(watch.look().version, "me", "they are old", watch.confirmations)
    (source / "5.md").unlink()
    with pytest.raises(InputError, match="6 of 11"):
        read()


def test_what_was_renamed_or_moved_is_not_lost(read, source):
    read()
    (source / "moved").mkdir()
    for n in range(9):
        shutil.move(source / f"{n}.md", source / "moved" / f"{n + 100}.md")
    assert len(read().before) == 11


def test_another_source_is_not_compared(read, source, tmp_path):
    read()
    other = tmp_path / "other"
    other.mkdir()
    (other / "z.md").write_text("# Z\n\nThe last one.\n")
    (other / "questions.jsonl").write_text("")
    assert set(read(path=other).before) == {"z.md", "questions.jsonl"}


def test_documents_in_one_file_are_counted_too(read, tmp_path, write_jsonl):
    folder = tmp_path / "rows"
    rows = [{"id": str(n), "title": "", "text": f"Lamp {n} burns oil of the kind {n}."} for n in range(10)]
    write_jsonl(folder / "documents.jsonl", rows)
    write_jsonl(folder / "questions.jsonl", [])
    read("jsonl", folder)
    write_jsonl(folder / "documents.jsonl", rows[:5])
    with pytest.raises(InputError, match="5 of 10 documents of the source are gone"):
        read("jsonl", folder)


def test_a_word_without_a_reason_is_none(tmp_path):
    with pytest.raises(ConfigError, match="reason"):
        confirm("v", "me", " ", tmp_path / "confirmed.json")
    assert not (tmp_path / "confirmed.json").exists()


def test_the_share_itself_may_go():
    before = {str(n): str(n) for n in range(10)}
    assert lost(before, {"0": "changed", "new": "1"}) == [str(n) for n in range(2, 10)]
    assert too_much("objects", ["1", "2"], 10, 0.2) is None
    assert too_much("objects", ["1", "2", "3"], 10, 0.2) is not None
    assert too_much("objects", [], 0, 0.2) is None
